"""Whether what was computed is sound: numbers that are finite, a picture that is not one colour everywhere. Numpy alone."""

from typing import Optional, Union

import numpy as np

from gm.errors import UserError

WEIGHTS = (
    "the base weights or a LoRA are damaged or far too strong, look at them with tools/inspect_weights.py or give a smaller "
    "--lora_scale"
)


class NotFinite(UserError):
    """Numbers that are not finite arose in computing. Where float32 was not used everywhere, they may be finite in it."""


def is_finite(*arrays: np.ndarray) -> bool:
    """Whether no number is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in arrays)


def require_finite(where: str, *arrays: np.ndarray, causes: str = WEIGHTS) -> None:
    """NotFinite unless all numbers are finite. `where` says what they are of, `causes` what may be wrong and what to do."""
    if not is_finite(*arrays):
        raise NotFinite(f"{where} gave numbers that are not finite (NaN or infinite): {causes}")


def flat_colour(picture: np.ndarray) -> Optional[str]:
    """The colour of a picture (h, w, 3) uint8 that has one colour everywhere, in words; None for any other."""
    first = picture[0, 0]
    if (picture != first).any():
        return None
    red, green, blue = (int(value) for value in np.broadcast_to(first, 3))
    return "black" if not red + green + blue else f"of the one colour #{red:02x}{green:02x}{blue:02x}"


def in_words(error: Union[UserError, str]) -> str:
    """What a NotFinite says, without its causes."""
    return str(error).partition(": ")[0]
