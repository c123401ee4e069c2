"""How the conditional and unconditional predictions become one. Plain numpy; (B, z, h, w) in and out, denoised latents."""

import numpy as np

from gm.config.types import SampleSettings


def vanilla_cfg(conditional: np.ndarray, unconditional: np.ndarray, scale: float) -> np.ndarray:
    """Classifier-free guidance (arXiv 2207.12598): u + scale (c - u)."""
    return unconditional + np.float32(scale) * (conditional - unconditional)


GUIDERS = {"VanillaCFG": vanilla_cfg, "IdentityGuider": None}  # None: the conditional prediction alone


def is_guided(settings: SampleSettings, step: int) -> bool:
    """Whether this step, counted from 0, needs the unconditional prediction: at scale 1 there is nothing to add."""
    if GUIDERS[settings.guider] is None or settings.guidance_scale == 1.0:
        return False
    first, last = settings.guided_steps
    return first <= step / settings.steps < last


def guided(
    settings: SampleSettings, x: np.ndarray, sigma: float, conditional: np.ndarray, unconditional: np.ndarray
) -> np.ndarray:
    """The guided D of a latent x at the level sigma."""
    found = GUIDERS[settings.guider](conditional, unconditional, settings.guidance_scale)
    return rescaled(found, conditional, x, sigma, settings.guidance_rescale) if settings.guidance_rescale else found


def rescaled(found: np.ndarray, conditional: np.ndarray, x: np.ndarray, sigma: float, share: float) -> np.ndarray:
    """The guided D with its noise (x - D) / sigma brought back to the standard deviation of the conditional one, by `share`
    (arXiv 2305.08891, section 3.4; on the noise as in diffusers `rescale_noise_cfg`)."""
    noise, target = ((x - one) / np.float32(sigma) for one in (found, conditional))
    axes = tuple(range(1, x.ndim))
    factor = target.std(axes, keepdims=True, ddof=1) / noise.std(axes, keepdims=True, ddof=1)
    return x - np.float32(sigma) * noise * (np.float32(share) * factor + np.float32(1.0 - share))
