"""Scaled dot-product attention: the one place that may choose a fused kernel."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from gm.models.layers import add, as_type, mul, reshape, transpose


class Attention(nn.Cell):
    """softmax(q k^T / sqrt(d) + mask) v for `heads` heads; q (B, n, heads*d), k and v (B, m, heads*d) -> the shape of q.
    Each may also come as rows, (B*n, heads*d).

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

    def _split(self, x: Tensor, batch: int) -> Tensor:
        return transpose(reshape(x, (batch, -1, self.heads, self.head_width)), (0, 2, 1, 3))

    def construct(self, q: Tensor, k: Tensor, v: Tensor, batch: int, mask: Tensor = None) -> Tensor:
        if self.flash:
            rows = (batch, -1, self.heads * self.head_width)
            q3, k3, v3 = reshape(q, rows), reshape(k, rows), reshape(v, rows)
            out = ops.flash_attention_score(q3, k3, v3, self.heads, scalar_value=self.scale, input_layout="BSH")
            return reshape(out, q.shape)
        scores = as_type(self.scores(mul(self._split(q, batch), self.scale), self._split(k, batch)), ms.float32)
        if mask is not None:
            scores = add(scores, mask)
        out = self.mix(as_type(self.softmax(scores), v.dtype), self._split(v, batch))
        return reshape(transpose(out, (0, 2, 1, 3)), q.shape)
