"""The layers that every model here is made of: linear and convolution (with LoRA), norms, embedding, activations.

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
from gm.models.kernels import add, as_rows, as_type, bias_add, mul, reshape, sub

_matmul_transposed = ops.MatMul(transpose_b=True)
_sigmoid, _erf, _sin, _cos, _concat_last = ops.Sigmoid(), ops.Erf(), ops.Sin(), ops.Cos(), ops.Concat(-1)
_matmul, _sqrt, _divide, _constant = ops.MatMul(), ops.Sqrt(), ops.Div(), ops.stop_gradient
TINY = 1e-20  # added to a squared length, so that a row of zeros divides


class LoraMatrix(nn.Cell):
    """One of the two LoRA matrices, so that its parameter is called `lora_A.weight` or `lora_B.weight`."""

    def __init__(self, rows: int, columns: int, zero: bool, dtype: ms.Type):
        super().__init__()
        init = "zeros" if zero else HeUniform(math.sqrt(5))
        self.weight = Parameter(initializer(init, (rows, columns), dtype))

    def construct(self, x: Tensor) -> Tensor:
        """x (N, columns) -> (N, rows)."""
        return _matmul_transposed(x, self.weight)


class LoraConvolution(nn.Cell):
    """One of the two matrices of a LoRA of a convolution: A has the convolution's window, B is 1 x 1."""

    def __init__(self, outputs: int, inputs: int, kernel: int, zero: bool, dtype: ms.Type, **more):
        super().__init__()
        init = "zeros" if zero else HeUniform(math.sqrt(5))
        self.weight = Parameter(initializer(init, (outputs, inputs, kernel, kernel), dtype))
        self.product = ops.Conv2D(outputs, kernel, **more)

    def construct(self, x: Tensor) -> Tensor:
        return self.product(x, self.weight)


class LoraMagnitudes(nn.Cell):
    """The length of each row of a weight, (outputs,) float32: float16 would keep three digits of what hardly changes."""

    def __init__(self, outputs: int):
        super().__init__()
        self.weight = Parameter(initializer("ones", (outputs,), ms.float32))

    def construct(self) -> Tensor:
        return self.weight


class Adapted(nn.Cell):
    """A layer to which LoRA may be attached: alpha / rank * x A^T B^T is added to its output (arXiv 2106.09685, equation 3).
    A is drawn as in the authors' code, B is zero: at the start nothing is changed.

    Of kind "dora" the sum is multiplied by m / |W + alpha / rank * B A|, row by row (arXiv 2402.09353, equation 5), and only then
    joined by the bias; no gradient goes through the length (section 4.3), and m starts at |W|.

    While training, `dropout` zeroes inputs of A, `neuron_dropout` outputs of A, `rank_dropout` whole ranks of a sample (each of
    the three with 1 / (1 - p) for what stays), and `module_dropout` leaves all of the adapter out of a step. A DoRA's length is
    that of the whole W + alpha / rank * B A, whatever is dropped.
    """

    def __init__(self, outputs: int, dtype: ms.Type, adapter: Optional[Adapter]):
        super().__init__()
        self.has_lora, self.is_dora = adapter is not None, adapter is not None and adapter.kind == "dora"
        self.drops_inputs = self.drops_neurons = self.drops_ranks = self.drops_module = False
        if adapter is None:
            return
        assert adapter.kind in ("lora", "dora"), adapter.kind
        self.rank, self.lora_scale = adapter.rank, adapter.alpha / adapter.rank
        self.has_scale, self.module_kept = self.lora_scale != 1.0, 1.0 - adapter.module_dropout
        if self.is_dora:
            self.lora_magnitude_vector = LoraMagnitudes(outputs)
        if adapter.dropout > 0:
            self.drops_inputs, self.lora_dropout = True, nn.Dropout(p=adapter.dropout)
        if adapter.neuron_dropout > 0:
            self.drops_neurons, self.lora_neuron_dropout = True, nn.Dropout(p=adapter.neuron_dropout)
        if adapter.rank_dropout > 0:
            self.drops_ranks, self.lora_rank_dropout = True, nn.Dropout(p=adapter.rank_dropout)
            self.ones = Tensor(np.ones((1, adapter.rank)), dtype)
        if adapter.module_dropout > 0:
            self.drops_module, self.lora_module_dropout = True, nn.Dropout(p=adapter.module_dropout)
            self.one = Tensor(np.ones(1), ms.float32)

    def adapted(self, y: Tensor, x: Tensor, samples: int, weight: Optional[Tensor] = None) -> Tensor:
        """y (N, outputs), with the LoRA of x (N, inputs) added where there is one, or images (N, outputs, h, w) and (N, inputs,
        ...). `samples`: how many N holds. `weight` is needed for a DoRA."""
        if not self.has_lora:
            return y
        low = self.lora_A(self.lora_dropout(x) if self.drops_inputs else x)
        if self.drops_neurons:
            low = self.lora_neuron_dropout(low)
        if self.drops_ranks and self.training:
            low = self.without_ranks(low, samples)
        if self.has_scale:
            low = mul(low, self.lora_scale)
        if self.drops_module and self.training:
            kept = mul(self.lora_module_dropout(self.one), self.module_kept)  # 0, or 1 / kept times kept
            low = mul(low, as_type(kept, low.dtype))
            y = add(y, self.lora_B(low))
            return self.resized(y, add(mul(sub(self.gain(weight), 1.0), kept), 1.0)) if self.is_dora else y
        y = add(y, self.lora_B(low))
        return self.resized(y, self.gain(weight)) if self.is_dora else y

    def without_ranks(self, low: Tensor, samples: int) -> Tensor:
        """low (N, rank) or (N, rank, h, w), with some ranks of every sample zero."""
        mask = self.lora_rank_dropout(ops.tile(self.ones, (samples, 1)))
        if len(low.shape) == 4:
            return mul(low, reshape(mask, (samples, self.rank, 1, 1)))
        rows = reshape(low, (samples, -1, self.rank))
        return reshape(mul(rows, reshape(mask, (samples, 1, self.rank))), low.shape)

    def gain(self, weight: Tensor) -> Tensor:
        """What a DoRA multiplies each row of the weight by, (outputs,) float32."""
        a, b = as_type(self.lora_A.weight, ms.float32), as_type(self.lora_B.weight, ms.float32)
        update = _matmul(mul(reshape(b, (b.shape[0], -1)), self.lora_scale), reshape(a, (a.shape[0], -1)))
        whole = add(as_type(reshape(weight, update.shape), ms.float32), update)
        ones = ops.ones((update.shape[1], 1), ms.float32)
        squares = _constant(reshape(_matmul(mul(whole, whole), ones), (-1,)))  # a product for the sum: see kernels.py
        return _divide(self.lora_magnitude_vector(), _sqrt(add(squares, TINY)))

    def resized(self, y: Tensor, gain: Tensor) -> Tensor:
        """y (N, outputs) or (N, outputs, h, w) times gain (outputs,), in float32: in float16 a gain near 1 has three digits."""
        gain = reshape(gain, (1, -1, 1, 1) if len(y.shape) == 4 else (1, -1))
        return as_type(mul(as_type(y, ms.float32), ops.broadcast_to(gain, y.shape)), y.dtype)


def keep_dropout(cell: nn.Cell) -> None:
    """In a cell that is recomputed: keep what its dropouts have drawn, which would be drawn anew for the backward pass."""
    for _, part in cell.cells_and_names():
        if isinstance(part, nn.Dropout):
            part.dropout.recompute(False)


class AdaptedLinear(Adapted):
    """A linear layer with LoRA where an adapter is given."""

    def __init__(self, inputs: int, outputs: int, dtype: ms.Type, adapter: Optional[Adapter]):
        super().__init__(outputs, dtype, adapter)
        if adapter is not None:
            self.lora_A = LoraMatrix(adapter.rank, inputs, False, dtype)
            self.lora_B = LoraMatrix(outputs, adapter.rank, True, dtype)


class Linear(AdaptedLinear):
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
        if self.is_dora:
            y = self.adapted(y, x, shape[0], self.weight)
        if self.has_bias:
            y = bias_add(y, self.bias)
        if not self.is_dora:
            y = self.adapted(y, x, shape[0])
        return y if len(shape) == 2 else reshape(y, shape[:-1] + (self.outputs,))


class Conv2d(Adapted):
    """A square convolution with bias, with LoRA where an adapter is given; `padding` is one number for all sides, or those of top,
    bottom, left and right."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        dtype: ms.Type,
        stride: int = 1,
        padding: Union[int, tuple[int, int, int, int]] = 0,
        adapter: Optional[Adapter] = None,
    ):
        super().__init__(outputs, dtype, adapter)
        self.weight = Parameter(initializer(HeUniform(math.sqrt(5)), (outputs, inputs, kernel, kernel), dtype))
        self.bias = Parameter(initializer("zeros", (outputs,), dtype))
        how = {"pad_mode": "pad", "pad": padding, "stride": stride}
        self.product = ops.Conv2D(outputs, kernel, **how)
        if adapter is not None:
            self.lora_A = LoraConvolution(adapter.rank, inputs, kernel, False, dtype, **how)
            self.lora_B = LoraConvolution(outputs, adapter.rank, 1, True, dtype)

    def construct(self, x: Tensor) -> Tensor:
        if self.is_dora:
            return bias_add(self.adapted(self.product(x, self.weight), x, x.shape[0], self.weight), self.bias)
        y = bias_add(self.product(x, self.weight), self.bias)
        return self.adapted(y, x, x.shape[0]) if self.has_lora else y


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
