"""Trains `mobilenet_v2_emoji`: python -m zoo.encoders.mobilenet_v2_emoji.recipe"""

from recipes import encoder as eyes

# strokes and shades are what ImageNet taught; the later layers learn
EYE = eyes.Eye(__file__, frozen_until="block_5_add")

if __name__ == "__main__":
    eyes.main(EYE)
