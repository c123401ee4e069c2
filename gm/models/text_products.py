"""The products of the text with the frozen weights of `attn2.to_k` and `to_v`, computed once a prompt.

They are the same for every picture of a prompt. A UNet that is given them has no such weights, and takes a context that
is wider: behind its context_dim columns come the columns of every product, in the order in which the layers were built.
In SDXL these are 52 MB a prompt, for a seventh of the UNet's weights; with few prompts they pay.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from gm.config.types import Adapter
from gm.models.layers import AdaptedLinear, as_rows, reshape

THREADS = 2  # that multiply
_columns = ops.Slice()


class TextProducts:
    """Which layers are given their product, and where in the context it stands; filled while the UNet is built."""

    def __init__(self, context_dim: int):
        self.context_dim = self.width = context_dim  # width: columns of a whole context
        self.layers: dict[str, tuple[int, int]] = {}  # native name -> first column, columns

    def gives(self, name: str) -> bool:
        return name.endswith((".attn2.to_k", ".attn2.to_v"))

    def add(self, name: str, columns: int) -> None:
        self.layers[name] = self.width, columns
        self.width += columns


class GivenLinear(AdaptedLinear):
    """A linear layer without a weight: called with (x, product), x (B, n, inputs) and product (B*n, outputs) = x W^T.

    What is left to compute is the LoRA on x. -> (B, n, outputs). A DoRA needs the weight, whose length changes.
    """

    def __init__(self, inputs: int, outputs: int, dtype: ms.Type, adapter: Optional[Adapter]):
        super().__init__(inputs, outputs, dtype, adapter)
        assert not self.is_dora, "a DoRA needs the weight"
        self.outputs = outputs

    def construct(self, given) -> Tensor:
        x, product = given
        return reshape(self.adapted(product, as_rows(x), x.shape[0]), x.shape[:-1] + (self.outputs,))


class BlockTexts(nn.Cell):
    """context -> what each transformer block of one spatial transformer makes its keys and its values from.

    It is the context itself, or where products are given (context, product). It stands outside of the blocks, whose
    compiled body is one for all and cannot hold a column of its own.
    """

    def __init__(self, name: str, depth: int, products: Optional[TextProducts]):
        super().__init__()
        self.depth, self.is_plain = depth, products is None
        if products is not None:
            self.context_dim = products.context_dim
            self.places = tuple(
                tuple(products.layers[f"{name}.transformer_blocks.{i}.attn2.{part}"] for part in ("to_k", "to_v"))
                for i in range(depth)
            )

    def construct(self, context: Tensor) -> tuple:
        if self.is_plain:
            return ((context, context),) * self.depth
        texts, tokens = context.shape[:2]
        rows = as_rows(context)
        plain = _columns(context, (0, 0, 0), (texts, tokens, self.context_dim))
        given = ()
        for (key, key_columns), (value, value_columns) in self.places:
            keys = _columns(rows, (0, key), (texts * tokens, key_columns))
            values = _columns(rows, (0, value), (texts * tokens, value_columns))
            given += (((plain, keys), (plain, values)),)
        return given


def widen(products: TextProducts, contexts: np.ndarray, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """Contexts (P, 77, context_dim) with the products behind them, float32 (P, 77, products.width).

    `read(name)` gives the weights that the UNet itself does not hold.
    """
    wide = np.empty((*contexts.shape[:2], products.width), np.float32)
    wide[..., : products.context_dim] = contexts
    flat = wide.reshape(-1, products.width)
    rows = np.array(flat[:, : products.context_dim])

    def put(name: str) -> None:
        first, columns = products.layers[name]
        flat[:, first : first + columns] = rows @ np.asarray(read(f"{name}.weight"), np.float32).T

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, products.layers))
    return wide
