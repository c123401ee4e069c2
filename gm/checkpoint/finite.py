"""NaN and infinite numbers in tensors, found by their bits: those whose exponent is all ones. numpy only."""

import numpy as np

# our name of a type -> the whole numbers with its bits, and the bits of its exponent
_EXPONENTS = {
    "float16": (np.uint16, 0x7C00),
    "bfloat16": (np.uint16, 0x7F80),
    "float32": (np.uint32, 0x7F80_0000),
    "float64": (np.uint64, 0x7FF0_0000_0000_0000),
}
_PART = 2**16  # numbers at a time: their exponents stay in the cache


def count_not_finite(content, dtype: str) -> int:
    """How many numbers of a tensor's bytes are NaN or infinite; `dtype`: a name of formats.DTYPES, 0 for whole numbers."""
    if dtype not in _EXPONENTS or not len(content):
        return 0
    kind, exponent = _EXPONENTS[dtype]
    bits = np.frombuffer(content, kind)
    room, mask, count = np.empty(min(len(bits), _PART), kind), kind(exponent), 0
    for start in range(0, len(bits), _PART):
        part = bits[start : start + _PART]
        found = np.bitwise_and(part, mask, out=room[: len(part)])
        if found.max() == mask:
            count += int(np.count_nonzero(found == mask))
    return count
