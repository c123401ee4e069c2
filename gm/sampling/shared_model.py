"""The model of a page: loaded once, in a process of its own, for one person's pictures at a time.

No MindSpore import here: while MindSpore compiles a graph, no other thread of its process runs, so a page would stand
still; and it cannot be imported where Streamlit is, because the code that it generated for protobuf needs protobuf's
Python implementation, chosen before protobuf is imported.
"""

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, Optional

from gm import console, runtime
from gm.config.types import Config
from gm.console import Viewer
from gm.process import Worker
from gm.runtime import Runtime


@dataclass(frozen=True)
class Choice:
    """Which model is wanted, and where it computes."""

    config: Config
    weight: str  # the base
    vae: Optional[str]  # another first stage than the base's
    machine: Runtime
    max_tokens: Optional[int] = None  # of a prompt; None: the YAML's
    prompt_style: str = "plain"  # this and the next as in gm/encoding/source.py
    clip_skip: int = 0
    embeddings: tuple[str, ...] = ()


class SharedModel:
    """Holds the model that was wanted last; another takes its place."""

    def __init__(self):
        self._turn = threading.Lock()
        self._choice: Optional[Choice] = None
        self._kept: Optional[Worker] = None

    @contextmanager
    def open(self, choice: Choice, viewer: Viewer) -> Iterator[Worker]:
        """The `Pipeline` of this model with its text encoders, for the body alone. `viewer` is told who is waited for, and
        of the loading where that is necessary; what it raises ends this."""
        seconds = 0.0
        while not self._turn.acquire(timeout=0.5):
            seconds += 0.5
            viewer(f"somebody else's pictures are being made, yours come next, {seconds:.0f} s", None)
        try:
            if choice != self._choice or not self._kept.alive:
                self.close()
                self._kept = Worker(viewer, load, choice)
                self._choice = choice
            yield self._kept
        finally:
            self._turn.release()

    def close(self) -> None:
        """Forget the model; its memory is free."""
        if self._kept:
            self._kept.end()
        self._kept = self._choice = None


def load(choice: Choice):
    """The `Pipeline` for these weights, loaded with its text encoders, in the process that calls it."""
    machine = runtime.start(choice.machine, 0, [choice.config.model])
    from gm.encoding.source import source_of
    from gm.sampling.pipeline import Pipeline

    with console.waiting("checking the weights"):
        same = {name: getattr(choice, name) for name in ("vae", "prompt_style", "clip_skip", "embeddings")}
        pipeline = Pipeline(source_of(choice.config, choice.weight, machine, choice.max_tokens, **same))
    pipeline.load(keep_text_encoders=True)
    return pipeline
