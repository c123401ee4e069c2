"""Scaled dot-product attention: the one place that may choose a fused kernel."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from gm.models.layers import add, cast, mul, reshape, transpose


class Attention(nn.Cell):
    """softmax(q k^T / sqrt(d) + mask) v for `heads` heads; q (B, n, heads*d), k and v (B, m, heads*d) -> (B, n, heads*d).

    `kind` "vanilla" is written out below, the softmax in float32. "flash-attention" is Ascend's fused kernel
    (`mindspore.ops.flash_attention_score`, layout BSH, float16 or bfloat16 inputs, no mask): not run on Ascend here.
    """

    def __init__(self, heads: int, head_width: int, kind: str = "vanilla"):
        super().__init__()
        self.heads = heads
        self.head_width = head_width
        self.scale = head_width**-0.5
        self.flash = kind == "flash-attention"
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.softmax = ops.Softmax(-1)

    def _split(self, x: Tensor) -> Tensor:
        return transpose(reshape(x, (x.shape[0], x.shape[1], self.heads, self.head_width)), (0, 2, 1, 3))

    def construct(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor = None) -> Tensor:
        if self.flash:
            return ops.flash_attention_score(q, k, v, self.heads, scalar_value=self.scale, input_layout="BSH")
        scores = cast(self.scores(mul(self._split(q), self.scale), self._split(k)), ms.float32)
        if mask is not None:
            scores = add(scores, mask)
        out = self.mix(cast(self.softmax(scores), v.dtype), self._split(v))
        return reshape(transpose(out, (0, 2, 1, 3)), q.shape)
