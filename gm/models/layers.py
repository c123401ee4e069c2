"""The layers that every model here is made of: linear (with LoRA), convolution, norms, embedding, activations.

Attention is attention.py; what the CPU computes in its own way is kernels.py. Shapes: x (B, ..., C) for linear and layer
norm, (B, C, h, w) for images. `dtype` is the type in which a layer computes and its matrices are stored; of LoRA matrices
the optimizer has a float32 copy, so that none is cast in a graph. Norms are stored and computed in float32 whatever it is.
"""

import math
from typing import Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal, initializer

from gm.config.types import Adapter
from gm.models import kernels
from gm.models.kernels import add, as_rows, as_type, bias_add, mul, reshape

_matmul_transposed = ops.MatMul(transpose_b=True)
_sigmoid, _erf, _sin, _cos, _concat_last = ops.Sigmoid(), ops.Erf(), ops.Sin(), ops.Cos(), ops.Concat(-1)


class LoraMatrix(nn.Cell):
    """One of the two LoRA matrices, so that its parameter is called `lora_A.weight` or `lora_B.weight`."""

    def __init__(self, rows: int, columns: int, zero: bool, dtype: ms.Type):
        super().__init__()
        init = "zeros" if zero else HeUniform(math.sqrt(5))
        self.weight = Parameter(initializer(init, (rows, columns), dtype))

    def construct(self, x: Tensor) -> Tensor:
        """x (N, columns) -> (N, rows)."""
        return _matmul_transposed(x, self.weight)


class Adapted(nn.Cell):
    """A linear layer to which LoRA may be attached: alpha / rank * x A^T B^T is added to its output (arXiv 2106.09685,
    equation 3). A is drawn as in the authors' code, B is zero: at the start nothing is changed."""

    def __init__(self, inputs: int, outputs: int, dtype: ms.Type, adapter: Optional[Adapter]):
        super().__init__()
        self.has_lora, self.has_dropout = adapter is not None, adapter is not None and adapter.dropout > 0
        if adapter is not None:
            assert adapter.kind == "lora", adapter.kind
            self.lora_A = LoraMatrix(adapter.rank, inputs, False, dtype)
            self.lora_B = LoraMatrix(outputs, adapter.rank, True, dtype)
            self.lora_scale = adapter.alpha / adapter.rank
            if self.has_dropout:
                self.lora_dropout = nn.Dropout(p=adapter.dropout)

    def adapted(self, y: Tensor, x: Tensor) -> Tensor:
        """y (N, outputs), with the LoRA of x (N, inputs) added where there is one."""
        if not self.has_lora:
            return y
        low = self.lora_A(self.lora_dropout(x) if self.has_dropout else x)
        if self.lora_scale != 1.0:
            low = mul(low, self.lora_scale)
        return add(y, self.lora_B(low))


class Linear(Adapted):
    """y = x W^T + b, with LoRA where an adapter is given; x (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: ms.Type, adapter: Optional[Adapter] = None):
        super().__init__(inputs, outputs, dtype, adapter)
        self.weight = Parameter(initializer(HeUniform(math.sqrt(5)), (outputs, inputs), dtype))
        self.bias = Parameter(initializer("zeros", (outputs,), dtype)) if bias else None
        self.has_bias, self.outputs = bias, outputs

    def construct(self, x: Tensor) -> Tensor:
        shape = x.shape
        x = as_rows(x)
        y = _matmul_transposed(x, self.weight)
        if self.has_bias:
            y = bias_add(y, self.bias)
        y = self.adapted(y, x)
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
        self.norm = kernels.layer_norm(eps)

    def construct(self, x: Tensor) -> Tensor:
        y = self.norm(as_rows(as_type(x, ms.float32)), self.gamma, self.beta)[0]
        return as_type(y if len(x.shape) == 2 else reshape(y, x.shape), x.dtype)


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
