"""DoRA's arithmetic on arrays of numbers (arXiv 2402.09353, equation 5): a weight is a length times a direction. numpy only.

W (out, in) or (out, in, h, w)   update = alpha / rank * B A, in W's shape   whole = W + update

What a file calls magnitudes is one of three things, here `form`:
  "rows"     (out,): the length of each output row; W' = m whole / |whole|. What is trained here, by PEFT and newer LyCORIS.
  "columns"  (in,): the length of each input column; the same with columns. OneTrainer's, older LyCORIS.
  "base"     (out,): W' = m whole / |W| by rows, which is what ComfyUI computes of rows.
"""

import numpy as np


def row_norms(weight: np.ndarray) -> np.ndarray:
    """The length of each output row, (out,) float32."""
    flat = weight.astype(np.float32).reshape(len(weight), -1)
    return np.sqrt(np.einsum("ij,ij->i", flat, flat))


def column_norms(weight: np.ndarray) -> np.ndarray:
    """The length of each input column, (in,) float32."""
    return row_norms(weight.swapaxes(0, 1))


def decomposed(weight: np.ndarray, update: np.ndarray, magnitudes: np.ndarray, form: str) -> np.ndarray:
    """The weight W' that a DoRA makes of `weight`, in its shape, float32."""
    weight = weight.astype(np.float32)
    whole = weight + update
    if form == "columns":
        gains, axes = _quotient(magnitudes, column_norms(whole)), (1, -1)
    else:
        gains, axes = _quotient(magnitudes, row_norms(weight if form == "base" else whole)), (-1, 1)
    return whole * gains.reshape(axes + (1,) * (weight.ndim - 2))


def in_form(weight: np.ndarray, update: np.ndarray, magnitudes: np.ndarray, form: str, wanted: str) -> np.ndarray:
    """Magnitudes of rows in the other form by rows, (out,): "rows" as "base" or back, for the same W'."""
    if form == wanted:
        return magnitudes
    norms = {"base": row_norms(weight), "rows": row_norms(weight.astype(np.float32) + update)}
    return magnitudes * _quotient(norms[wanted], norms[form])


def _quotient(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    """over / under; 0 for a row or column of zeros, which has no direction."""
    return np.divide(over, under, out=np.zeros_like(under), where=under > 0)
