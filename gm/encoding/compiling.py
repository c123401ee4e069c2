"""Calling a network on numpy arrays, and saying so while its graph is compiled."""

from typing import Sequence, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from gm.console import waiting


class Compiling:
    """Calls a network on numpy arrays; says so while its graph is compiled, once for each shape."""

    def __init__(self, cell: nn.Cell, what: str):
        self.cell, self.what, self.compiled = cell, what, set()

    def __call__(self, *arrays: Union[np.ndarray, Tensor]):
        """The output (or outputs) as numpy arrays. A Tensor is for what comes again: it may be on the device already."""
        shapes = tuple(array.shape for array in arrays)
        if shapes in self.compiled or ms.get_context("mode") == ms.PYNATIVE_MODE:
            return self._call(arrays)
        with waiting(self.what):
            outputs = self._call(arrays)
        self.compiled.add(shapes)
        return outputs

    def _call(self, arrays: Sequence[Union[np.ndarray, Tensor]]):
        outputs = self.cell(*(array if isinstance(array, Tensor) else Tensor(array) for array in arrays))
        return tuple(o.asnumpy() for o in outputs) if isinstance(outputs, tuple) else outputs.asnumpy()
