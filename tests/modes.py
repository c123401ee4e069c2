"""Graph mode and PyNative mode, in turn."""

from contextlib import contextmanager
from typing import Iterator

import mindspore as ms


@contextmanager
def in_mode(mode: int) -> Iterator[None]:
    """The body in this mode, what follows in graph mode again."""
    ms.set_context(mode=mode)
    try:
        yield
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
