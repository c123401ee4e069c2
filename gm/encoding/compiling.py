"""Calling a network on numpy arrays, saying so while its graph is compiled, and taking graphs from those of earlier processes."""

from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from gm.console import log, waiting
from gm.graph_cache import GraphCache, graph_folder

_kept = GraphCache(None)  # of this process: MindSpore keeps to the folder that a process has named first
_is_used = False


@contextmanager
def keeping_graphs(root: Optional[str], decides: Mapping[str, object]) -> Iterator[None]:
    """In the body, what this process compiles is taken from a folder in `root`, and kept there. `decides`: all that the networks
    and the shapes follow from, but for the weights; what comes in another order than it did is compiled. None: no cache. One
    body in a process; in a second one there is no cache either."""
    global _kept, _is_used
    if root is None or _is_used or ms.get_context("mode") == ms.PYNATIVE_MODE:
        yield
        return
    folder = graph_folder(Path(root), decides)
    if folder.exists():
        log.info("compiled graphs are in %s", folder)
    _kept, _is_used = GraphCache(folder), True
    try:
        yield
    finally:
        _kept = GraphCache(None)


class Compiling:
    """Calls a network on numpy arrays; says so while its graph is compiled, once for each shape."""

    def __init__(self, cell: nn.Cell, what: str):
        self.cell, self.what, self.compiled = cell, what, set()

    def __call__(self, *arrays: Union[np.ndarray, Tensor]):
        """The output (or outputs) as numpy arrays. A Tensor is for what comes again: it may be on the device already."""
        shapes = tuple(array.shape for array in arrays)
        if shapes in self.compiled or ms.get_context("mode") == ms.PYNATIVE_MODE:
            return self._call(arrays)
        with waiting(self.what), _kept(f"{type(self.cell).__name__} {[list(shape) for shape in shapes]}"):
            outputs = self._call(arrays)
        self.compiled.add(shapes)
        return outputs

    def _call(self, arrays: Sequence[Union[np.ndarray, Tensor]]):
        outputs = self.cell(*(array if isinstance(array, Tensor) else Tensor(array) for array in arrays))
        return tuple(o.asnumpy() for o in outputs) if isinstance(outputs, tuple) else outputs.asnumpy()
