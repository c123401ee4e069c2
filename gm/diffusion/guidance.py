"""How the conditional and unconditional predictions become one. Plain numpy; (B, z, h, w) in and out."""

import numpy as np


def vanilla_cfg(conditional: np.ndarray, unconditional: np.ndarray, scale: float) -> np.ndarray:
    """Classifier-free guidance (arXiv 2207.12598): u + scale (c - u)."""
    return unconditional + np.float32(scale) * (conditional - unconditional)


GUIDERS = {"VanillaCFG": vanilla_cfg, "IdentityGuider": None}  # None: the conditional prediction alone
