"""How much each pixel of a latent counts in the loss, from the mask of its photo. Plain numpy."""

import numpy as np

from gm.config.types import MaskConfig


def pixel_weights(mask: np.ndarray, config: MaskConfig) -> np.ndarray:
    """Factors of the loss, for masks (B, 1, h, w) in [0, 1] -> (B, 1, h, w) float32; with a prior weight (B, 2, h, w), the
    second channel of the difference from the prediction without LoRA.

    OneTrainer's: the mask, at least unmasked_weight; and what it lacks to 1, times prior_weight. `normalise` divides either
    by its mean over the pixels of each sample.
    """
    counts = np.clip(mask, config.unmasked_weight, 1.0)
    parts = [_normalised(counts) if config.normalise else counts]
    if config.prior_weight:
        parts.append(config.prior_weight * (_normalised(1.0 - counts) if config.normalise else 1.0 - counts))
    return np.concatenate(parts, 1).astype(np.float32)


def _normalised(factors: np.ndarray) -> np.ndarray:
    """Of mean 1 in each sample; zeros stay zeros."""
    mean = factors.mean((1, 2, 3), keepdims=True)
    return np.divide(factors, mean, out=np.zeros_like(factors), where=mean > 0)
