"""The layers that every model here is made of: linear (with LoRA), convolution, norms, embedding, activations.

Attention is in attention.py. Shapes: x (B, ..., C) for linear and layer norm, (B, C, h, w) for images.
`dtype` is the compute type of a layer and the storage type of its frozen matrices; norms and LoRA matrices are stored
and norms computed in float32 whatever it is. Layers use operator primitives (`ops.Reshape()`) rather than tensor
methods: each use of a method costs graph compilation about ten times as much.
"""

import math
from typing import Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal, initializer

from gm import runtime
from gm.config.types import LoraConfig


reshape, transpose, cast, add, sub, mul = ops.Reshape(), ops.Transpose(), ops.Cast(), ops.Add(), ops.Sub(), ops.Mul()
_matmul, _matmul_transposed = ops.MatMul(), ops.MatMul(transpose_b=True)
_exp, _rsqrt, _zeros_like = ops.Exp(), ops.Rsqrt(), ops.ZerosLike()
bias_add = ops.BiasAdd()  # not Add: on the CPU a broadcasting Add keeps four times its result in memory for good
_sigmoid, _erf, _sin, _cos, _concat_last = ops.Sigmoid(), ops.Erf(), ops.Sin(), ops.Cos(), ops.Concat(-1)


def as_type(x: Tensor, dtype: ms.Type) -> Tensor:
    """x as `dtype`; a cast that changes nothing would still be a node to compile and a kernel to run."""
    return x if x.dtype == dtype else cast(x, dtype)


def as_rows(x: Tensor) -> Tensor:
    """x (..., C) -> (N, C)."""
    return x if len(x.shape) == 2 else reshape(x, (-1, x.shape[-1]))


class LoraMatrix(nn.Cell):
    """One of the two LoRA matrices, so that its parameter is called `lora_A.weight` or `lora_B.weight`."""

    def __init__(self, rows: int, columns: int, zero: bool, dtype: ms.Type):
        super().__init__()
        init = "zeros" if zero else HeUniform(math.sqrt(5))
        self.weight = Parameter(initializer(init, (rows, columns), ms.float32))
        self.dtype = dtype

    def construct(self, x: Tensor) -> Tensor:
        """x (N, columns) -> (N, rows)."""
        return _matmul_transposed(x, as_type(self.weight, self.dtype))


class Linear(nn.Cell):
    """y = x W^T + b, and with `lora` + alpha / rank * x A^T B^T (arXiv 2106.09685, equation 3).

    A is drawn as in the authors' code (uniform, Kaiming with a = sqrt(5)), B is zero: at the start y is unchanged.
    `known`: there is no W here, every call is given x W^T.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        bias: bool,
        dtype: ms.Type,
        lora: Optional[LoraConfig] = None,
        known: bool = False,
    ):
        super().__init__()
        self.known = known
        if not known:
            self.weight = Parameter(initializer(HeUniform(math.sqrt(5)), (outputs, inputs), dtype))
        self.bias = Parameter(initializer("zeros", (outputs,), dtype)) if bias else None
        self.has_bias = bias
        self.inputs, self.outputs, self.dtype = inputs, outputs, dtype
        self.has_lora = self.has_dropout = False
        if lora is not None:
            self.add_lora(lora)

    def add_lora(self, lora: LoraConfig) -> None:
        """Give the layer the two matrices, before its first call."""
        self.has_lora, self.has_dropout = True, lora.dropout > 0
        self.lora_A = LoraMatrix(lora.rank, self.inputs, False, self.dtype)
        self.lora_B = LoraMatrix(self.outputs, lora.rank, True, self.dtype)
        self.lora_scale = lora.alpha / lora.rank
        if lora.dropout > 0:
            self.lora_dropout = nn.Dropout(p=lora.dropout)

    def construct(self, x: Tensor, product: Optional[Tensor] = None) -> Tensor:
        """x (..., inputs) -> (..., outputs); rows of a matrix need no reshaping. `product` (N, outputs) where it is known."""
        shape = x.shape
        x = as_rows(x)
        y = product if self.known else _matmul_transposed(x, self.weight)
        if self.has_bias:
            y = bias_add(y, self.bias)
        if self.has_lora:
            low = self.lora_A(self.lora_dropout(x) if self.has_dropout else x)
            if self.lora_scale != 1.0:
                low = mul(low, self.lora_scale)
            y = add(y, self.lora_B(low))
        return y if len(shape) == 2 else reshape(y, shape[:-1] + (self.outputs,))


class Conv2d(nn.Cell):
    """A square convolution with bias; `padding` is one number for all sides, or those of top, bottom, left and right."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        dtype: ms.Type,
        stride: int = 1,
        padding: Union[int, tuple[int, int, int, int]] = 0,
    ):
        super().__init__()
        self.weight = Parameter(initializer(HeUniform(math.sqrt(5)), (outputs, inputs, kernel, kernel), dtype))
        self.bias = Parameter(initializer("zeros", (outputs,), dtype))
        self.product = ops.Conv2D(outputs, kernel, pad_mode="pad", pad=padding, stride=stride)

    def construct(self, x: Tensor) -> Tensor:
        return bias_add(self.product(x, self.weight), self.bias)


class GroupNorm(nn.Cell):
    """Group normalisation over 32 groups, in float32, returned in the type of x."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.gamma = Parameter(initializer("ones", (channels,), ms.float32))
        self.beta = Parameter(initializer("zeros", (channels,), ms.float32))
        self.eps = eps

    def construct(self, x: Tensor) -> Tensor:
        return as_type(ops.group_norm(as_type(x, ms.float32), 32, self.gamma, self.beta, self.eps), x.dtype)


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis, in float32, returned in the type of x."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.gamma = Parameter(initializer("ones", (channels,), ms.float32))
        self.beta = Parameter(initializer("zeros", (channels,), ms.float32))
        self.norm = NormaliseRows(channels, eps) if runtime.composes_kernels() else ops.LayerNorm(-1, -1, eps)

    def construct(self, x: Tensor) -> Tensor:
        y = self.norm(as_rows(as_type(x, ms.float32)), self.gamma, self.beta)[0]
        return as_type(y if len(x.shape) == 2 else reshape(y, x.shape), x.dtype)


class NormaliseRows(nn.Cell):
    """ops.LayerNorm with a gradient of our own: MindSpore's CPU kernel for it takes three times as long.

    x (N, C), gamma and beta (C,) -> y (N, C), mean and variance (N, 1). gamma and beta are frozen, so they get no gradient.
    With r = 1 / sqrt(variance + eps) and means over a row, dx = r gamma dy + b x + c, where
    b = -r^3 (mean(gamma dy x) - mean mean(gamma dy)) and c = -r mean(gamma dy) - b mean.
    A row's mean is a product with a column, and a column spread over the rows a product with a row: reductions are
    slower, and a broadcasting kernel keeps four times its result in memory for good.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.eps, self.channels = eps, channels
        self.norm = ops.LayerNorm(-1, -1, eps)
        self.ones = Tensor(np.ones((1, channels), np.float32))

    def construct(self, x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.norm(x, gamma, beta)

    def bprop(self, x, gamma, beta, out, dout):
        dy, mean = dout[0], out[1]
        column = reshape(mul(gamma, 1.0 / self.channels), (self.channels, 1))
        first, second = _matmul(dy, column), _matmul(mul(dy, x), column)
        r = _rsqrt(add(out[2], self.eps))
        b = mul(mul(mul(r, r), r), sub(mul(mean, first), second))
        c = sub(mul(mul(b, mean), -1.0), mul(r, first))
        dx = mul(dy, _matmul(r, reshape(gamma, (1, self.channels))))
        dx = add(add(dx, mul(x, _matmul(b, self.ones))), _matmul(c, self.ones))
        return dx, _zeros_like(gamma), _zeros_like(beta)


class Embedding(nn.Cell):
    """A table of rows: ids (B, n) int32 -> (B, n, width)."""

    def __init__(self, rows: int, width: int, dtype: ms.Type):
        super().__init__()
        self.embedding_table = Parameter(initializer(Normal(0.02), (rows, width), dtype))

    def construct(self, ids: Tensor) -> Tensor:
        return ops.gather(self.embedding_table, ids, 0)


class TimestepEmbedding(nn.Cell):
    """Sinusoids of a number: values (N,) float32 -> (N, width), cosines first (sgm `timestep_embedding`, period 10000)."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.frequencies = Tensor(np.exp(-math.log(10000.0) * np.arange(half) / half), ms.float32)

    def construct(self, values: Tensor) -> Tensor:
        angles = reshape(values, (-1, 1)) * self.frequencies
        return _concat_last((_cos(angles), _sin(angles)))


def silu(x: Tensor) -> Tensor:
    return mul(x, _sigmoid(x))


def gelu(x: Tensor) -> Tensor:
    """The exact GELU, x * Phi(x)."""
    return mul(mul(x, 0.5), add(_erf(mul(x, math.sqrt(0.5))), 1.0))


class GatedGelu(nn.Cell):
    """GEGLU's product (arXiv 2002.05202): x (N, 2 C) is value and gate -> value * gelu(gate) (N, C), the exact GELU.

    Its gradient is written out, from what the forward pass keeps: gelu'(g) = Phi(g) + g exp(-g^2 / 2) / sqrt(2 pi).
    """

    def __init__(self):
        super().__init__()
        self.halves = ops.Split(-1, 2)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Also returns gelu(gate) and 2 Phi(gate), for the gradient."""
        value, gate = self.halves(x)
        twice = add(_erf(mul(gate, math.sqrt(0.5))), 1.0)
        active = mul(mul(gate, 0.5), twice)
        return mul(value, active), active, twice

    def bprop(self, x, out, dout):
        value, gate = self.halves(x)
        bell = mul(_exp(mul(mul(gate, gate), -0.5)), 1.0 / math.sqrt(2.0 * math.pi))
        slope = add(mul(out[2], 0.5), mul(gate, bell))
        return (_concat_last((mul(dout[0], out[1]), mul(mul(dout[0], value), slope))),)


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's approximation, x * sigmoid(1.702 x)."""
    return mul(x, _sigmoid(mul(x, 1.702)))
