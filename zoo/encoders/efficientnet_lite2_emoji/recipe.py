"""Trains `efficientnet_lite2_emoji`: python -m zoo.encoders.efficientnet_lite2_emoji.recipe

`train` wants a GPU: `KERAS_BACKEND=jax python -m zoo.encoders.efficientnet_lite2_emoji.recipe train` after `pack`.
"""

from zoo import eyes

EYE = eyes.Eye(__file__, epochs=100, batch_size=256, learning_rate=1e-3, ema=0.999, dropout=0.3, dtype="mixed_bfloat16")

if __name__ == "__main__":
    eyes.main(EYE)
