"""What an SDXL network starts from when nothing has been trained yet, by the native names of its parameters."""

import re
import zlib

import numpy as np

from gm.randomness import RANDOM_WEIGHTS, generator

# Layers that sgm starts at zero, the last of every residual and transformer branch, and of the UNet; and the VAE's
# residual branches, which learns faster for it
_ZERO = re.compile(r"(diffusion_model\.(.*out_layers\.3|.*\.proj_out|out\.2)|first_stage_model\..*\.conv2)\.weight$")
_TOKENS, _POSITIONS = re.compile(r"token_embedding"), re.compile(r"position(al)?_embedding")
NARROW = -6.0  # log-variance that posteriors start with: with 0, the decoder sees little but noise for hundreds of updates


def initial_weight(name: str, shape: tuple, seed: int) -> np.ndarray:
    """Float32: norms 1, biases 0, matrices and kernels uniform with bound inputs^-0.5 (PyTorch's own choice).

    Tokens are unit normal times 0.5 and positions times 0.1, which makes the context about as large as CLIP's: it is
    the residual stream, no norm stands between it and the UNet.
    """
    if name == "first_stage_model.quant_conv.bias":
        return np.repeat(np.float32([0.0, NARROW]), shape[0] // 2)
    if name.endswith((".bias", ".beta")) or _ZERO.search(name):
        return np.zeros(shape, np.float32)
    if name.endswith(".gamma"):
        return np.ones(shape, np.float32)
    source = generator(seed, RANDOM_WEIGHTS, zlib.crc32(name.encode()))
    for pattern, spread in ((_TOKENS, 0.5), (_POSITIONS, 0.1)):
        if pattern.search(name):
            return (spread * source.standard_normal(shape)).astype(np.float32)
    inputs = shape[0] if name.endswith("text_projection") else int(np.prod(shape[1:]))
    bound = inputs**-0.5
    return source.uniform(-bound, bound, shape).astype(np.float32)
