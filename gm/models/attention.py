"""Scaled dot-product attention: the one place that may choose a fused kernel."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from gm.models import kernels
from gm.models.kernels import add, as_type, mul, reshape


class Attention(nn.Cell):
    """softmax(q k^T / sqrt(d) + mask) v for `heads` heads; q (B, n, heads*d), k and v (B, m, heads*d) -> the shape of q.

    `kind` "vanilla" is written out below, the softmax in float32. "flash-attention" is Ascend's fused kernel
    (`mindspore.ops.flash_attention_score`, layout BSH, float16 or bfloat16 inputs, no mask): not run on Ascend here.
    """

    def __init__(self, heads: int, head_width: int, kind: str = "vanilla"):
        super().__init__()
        self.heads = heads
        self.scale = head_width**-0.5
        self.flash = kind == "flash-attention"
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = kernels.softmax()
        self.swap = kernels.SwapAxes(head_width)

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        if self.flash:
            return ops.flash_attention_score(q, k, v, self.heads, scalar_value=self.scale, input_layout="BSH")
        batch, queries, keys, heads = q.shape[0], q.shape[1], k.shape[1], self.heads
        q = mul(self.swap(q, batch, queries, heads), self.scale)
        scores = as_type(self.scores(q, self.swap(k, batch, keys, heads)), ms.float32)
        if mask is not None:
            scores = add(scores, mask)
        out = self.mix(as_type(self.softmax(scores), v.dtype), self.swap(v, batch, keys, heads))
        return reshape(self.swap(out, batch, heads, queries), (batch, queries, -1))
