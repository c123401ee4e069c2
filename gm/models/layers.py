"""The layers that every model here is made of: linear (with LoRA), convolution, norms, embedding, activations.

Attention is in attention.py. Shapes: x (B, ..., C) for linear and layer norm, (B, C, h, w) for images.
`dtype` is the compute type of a layer and the storage type of its frozen matrices; norms and LoRA matrices are stored
and norms computed in float32 whatever it is. Layers use operator primitives (`ops.Reshape()`) rather than tensor
methods: each use of a method costs graph compilation about ten times as much.
"""

import math
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal, initializer

from gm.config import LoraConfig


reshape, transpose, cast, add, mul = ops.Reshape(), ops.Transpose(), ops.Cast(), ops.Add(), ops.Mul()
_matmul_transposed = ops.MatMul(transpose_b=True)
_sigmoid, _erf, _sin, _cos, _concat_last = ops.Sigmoid(), ops.Erf(), ops.Sin(), ops.Cos(), ops.Concat(-1)


class LoraMatrix(nn.Cell):
    """One of the two LoRA matrices, so that its parameter is called `lora_A.weight` or `lora_B.weight`."""

    def __init__(self, rows: int, columns: int, zero: bool, dtype: ms.Type):
        super().__init__()
        init = "zeros" if zero else HeUniform(math.sqrt(5))
        self.weight = Parameter(initializer(init, (rows, columns), ms.float32))
        self.dtype = dtype

    def construct(self, x: Tensor) -> Tensor:
        """x (N, columns) -> (N, rows)."""
        return _matmul_transposed(x, cast(self.weight, self.dtype))


class Linear(nn.Cell):
    """y = x W^T + b, and with `lora` + alpha / rank * x A^T B^T (arXiv 2106.09685, equation 3).

    A is drawn as in the authors' code (uniform, Kaiming with a = sqrt(5)), B is zero: at the start y is unchanged.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: ms.Type, lora: Optional[LoraConfig] = None):
        super().__init__()
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

    def construct(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = reshape(x, (-1, self.inputs))
        y = _matmul_transposed(x, self.weight)
        if self.has_bias:
            y = add(y, self.bias)
        if self.has_lora:
            low = self.lora_dropout(x) if self.has_dropout else x
            y = add(y, mul(self.lora_B(self.lora_A(low)), self.lora_scale))
        return reshape(y, shape[:-1] + (self.outputs,))


class Conv2d(nn.Cell):
    """A square convolution with bias; `padding` is one number for all sides."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dtype: ms.Type, stride: int = 1, padding: int = 0):
        super().__init__()
        self.weight = Parameter(initializer(HeUniform(math.sqrt(5)), (outputs, inputs, kernel, kernel), dtype))
        self.bias = Parameter(initializer("zeros", (outputs,), dtype))
        self.product = ops.Conv2D(outputs, kernel, pad_mode="pad", pad=padding, stride=stride)
        self.add = ops.BiasAdd()

    def construct(self, x: Tensor) -> Tensor:
        return self.add(self.product(x, self.weight), self.bias)


class GroupNorm(nn.Cell):
    """Group normalisation over 32 groups, in float32, returned in the type of x."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.gamma = Parameter(initializer("ones", (channels,), ms.float32))
        self.beta = Parameter(initializer("zeros", (channels,), ms.float32))
        self.eps = eps

    def construct(self, x: Tensor) -> Tensor:
        return cast(ops.group_norm(cast(x, ms.float32), 32, self.gamma, self.beta, self.eps), x.dtype)


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis, in float32, returned in the type of x."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.gamma = Parameter(initializer("ones", (channels,), ms.float32))
        self.beta = Parameter(initializer("zeros", (channels,), ms.float32))
        self.norm = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)

    def construct(self, x: Tensor) -> Tensor:
        return cast(self.norm(cast(x, ms.float32), self.gamma, self.beta)[0], x.dtype)


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


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI CLIP's approximation, x * sigmoid(1.702 x)."""
    return mul(x, _sigmoid(mul(x, 1.702)))
