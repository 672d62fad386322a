"""Trains and releases the encoder `mobilenet_v2_emoji`: python -m zoo.encoders.mobilenet_v2_emoji.recipe"""

from recipes.encoder import EncoderRelease, main

# The early layers detect strokes and shades as on photographs: only the later ones are trained.
RELEASE = EncoderRelease(__file__, frozen_until="block_5_add")

if __name__ == "__main__":
    main(RELEASE)
