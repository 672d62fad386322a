"""Trains and releases `gated_captioner/emoji`: python -m zoo.gated_captioner.emoji.recipe"""

from recipes import families, release as making

RELEASE = families.captioner(__file__, "a gate like a GRU's mixes the picture into every word")

if __name__ == "__main__":
    making.main(RELEASE)
