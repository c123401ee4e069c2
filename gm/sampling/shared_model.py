"""The model of a page: loaded once, in a process of its own, for one person's pictures at a time.

No MindSpore import here: while MindSpore compiles a graph, no other thread of its process runs, so a page would stand
still; and it cannot be imported where Streamlit is, because the code that it generated for protobuf needs protobuf's
Python implementation, chosen before protobuf is imported.
"""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, Optional

from gm import console, runtime
from gm.config.types import Config
from gm.console import Viewer
from gm.options.sample import SampleOptions
from gm.process import Worker
from gm.runtime import Runtime

PATIENCE = 0.5  # seconds between two signs of life while others come first


@dataclass(frozen=True)
class Choice:
    """Which model is wanted, and where it computes."""

    config: Config
    weight: str  # the base
    vae: Optional[str]  # another first stage than the base's
    machine: Runtime
    clip_skip: int = 0  # this and the next as in gm/encoding/source.py
    embeddings: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: SampleOptions, config: Config, base: str) -> "Choice":
        """What these options need; all else can change from picture to picture."""
        return cls(config, base, options.vae, options.machine, options.clip_skip, options.embedding)


class SharedModel:
    """Holds the model that was wanted last; another takes its place. Who comes first is served first."""

    def __init__(self):
        self._line: list[object] = []  # who is served, and who waits, in their order
        self._moved = threading.Condition()
        self._choice: Optional[Choice] = None
        self._kept: Optional[Worker] = None

    @contextmanager
    def open(self, choice: Choice, viewer: Viewer) -> Iterator[Worker]:
        """The `LoadedModel` (loaded_model.py) of this choice, for the body alone. `viewer` is told who is waited for, and of the
        loading where that is necessary; what it raises ends this."""
        ticket = object()
        with self._moved:
            self._line.append(ticket)
        try:
            self._wait(ticket, viewer)
            if self._kept is None or choice != self._choice or not self._kept.alive:
                self.close()
                self._kept = Worker(viewer, load, choice)
                self._choice = choice
            yield self._kept
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()

    def _wait(self, ticket: object, viewer: Viewer) -> None:
        began = time.monotonic()
        while True:
            with self._moved:
                before = self._line.index(ticket)
                if before:
                    self._moved.wait(PATIENCE)
                    before = self._line.index(ticket)
            if not before:
                return
            who = "other pictures are being made first" if before == 1 else f"{before} others come first"
            viewer(f"{who}, {time.monotonic() - began:.0f} s", None)

    @property
    def is_loaded(self) -> bool:
        """Whether a model takes memory now."""
        return self._kept is not None and self._kept.alive

    @property
    def is_free(self) -> bool:
        """Whether nobody is served."""
        return not self._line

    def close(self) -> None:
        """Forget the model; its memory is free."""
        if self._kept:
            self._kept.end()
        self._kept = self._choice = None


def load(choice: Choice):
    """The `LoadedModel` of these weights, with its text encoders, in the process that calls it."""
    machine = runtime.start(choice.machine, 0, [choice.config.model])
    from gm.encoding.source import source_of
    from gm.sampling.loaded_model import LoadedModel
    from gm.sampling.pipeline import Pipeline

    with console.waiting("checking the weights"):
        same = {name: getattr(choice, name) for name in ("vae", "clip_skip", "embeddings")}
        pipeline = Pipeline(source_of(choice.config, choice.weight, machine, **same))
    pipeline.load(keep_text_encoders=True)
    return LoadedModel(pipeline)
