"""When a run saves, what it does when that fails, and which files it deletes again.

A checkpoint is a LoRA file (with --save_format two) and then the training state; each appears when it is whole, the state last. So
at any moment the newest state is whole, and the LoRA file of its step is there.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from gm.console import log
from gm.errors import UserError

RETRY = 60.0  # seconds after which what could not be saved is tried again
LAST_TRIES = (0.0, 10.0, 20.0, 30.0)  # seconds to wait before each try to save the end of a run


@dataclass(frozen=True)
class SaveSettings:
    """What is saved where, and how often."""

    folder: Path
    every: int  # updates between checkpoints
    keep: Optional[int] = None  # newest checkpoints that stay; None keeps all
    name: str = "SDXL_base_1.0_{step}_lora.ckpt"  # of a checkpoint
    minutes: Optional[float] = None  # between checkpoints as well
    continues: bool = False  # earlier parts of the run have written to this folder
    evaluated: Optional[int] = None  # updates between evaluations, at each of which there is a checkpoint as well


class Checkpoints:
    """Saves, and deletes the oldest of the run beyond `keep`: those that it wrote itself and, where it continues in this folder,
    those that are there with steps up to the present. Files of later steps are another run's and stay; those of the steps in
    `spared` stay too."""

    def __init__(
        self,
        settings: SaveSettings,
        save: Callable[[Path, int], None],
        first_step: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.settings, self._save, self._clock, self._sleep = settings, save, clock, sleep
        self.saved_step = first_step  # of the newest state
        self.spared: frozenset[int] = frozenset()
        self._written: set[int] = set()
        self._since, self._retry, self._failure = clock(), 0.0, ""
        self._half: Optional[int] = None  # the step of a LoRA file whose state could not be written

    def path(self, step: int) -> Path:
        return self.settings.folder / self.settings.name.format(step=step)

    def due(self, step: int) -> bool:
        """Whether to save after so many updates."""
        now, minutes = self._clock(), self.settings.minutes
        if self._failure:
            return now >= self._retry
        often = [every for every in (self.settings.every, self.settings.evaluated) if every is not None]
        return any(step % every == 0 for every in often) or (minutes is not None and now - self._since >= 60 * minutes)

    def save(self, step: int) -> bool:
        """Save, or say once why that is impossible and when it is tried again; whether it is done."""
        path = self.path(step)
        try:
            self.settings.folder.mkdir(parents=True, exist_ok=True)  # it may have been removed
            self._save(path, step)
        except (UserError, OSError) as error:
            words = str(error) if isinstance(error, UserError) else f"{error.strerror or error} ({error.filename or path})"
            if not self._failure:
                log.warning("step %d was not saved: %s; training goes on, and it is tried again every minute", step, words)
            self._failure, self._retry = words, self._clock() + RETRY
            if path.exists() and step not in self._written:
                if self._half not in (None, step):  # one is enough where there is no room
                    self._delete(self._half)
                self._half = step
            return False
        if self._half is not None:
            self._written.add(self._half)
            self._half = None
        if self._failure:
            log.info("step %d is saved: %s", step, path)
        self._failure, self._since, self.saved_step = "", self._clock(), step
        self._written.add(step)
        self._delete_old(step)
        return True

    def save_last(self, step: int, patient: bool = True) -> Path:
        """Save the end of a run unless that is done, `patient`: trying for a minute. UserError when it is impossible."""
        if self.saved_step == step and step in self._written:
            return self.path(step)
        for seconds in LAST_TRIES if patient else LAST_TRIES[:1]:
            if seconds:
                log.warning("trying again to save step %d in %.0f s", step, seconds)
                self._sleep(seconds)
            if self.save(step):
                return self.path(step)
        raise UserError(f"step {step} could not be saved: {self._failure}; {self.in_words()}")

    def in_words(self) -> str:
        """What is there to go on with."""
        newest = max(self._steps() - {self._half}, default=None)
        if newest is None and self._half is None:
            return "nothing of this run was saved before"
        if newest is None:
            return f"{self.path(self._half or 0)} is there, but no training state"
        return f"{self.path(newest)} is kept, and with --resume {self.settings.folder} training goes on after step {self.saved_step}"

    def _steps(self, upto: Optional[int] = None) -> set[int]:
        """The steps of this run's checkpoints that are there."""
        if not self.settings.continues:
            return self._written
        before, after = self.settings.name.split("{step}")
        stem = re.compile(re.escape(before) + r"(\d+)" + re.escape(after.rpartition(".")[0]) + r"\.(ckpt|safetensors)")
        last = max(self.saved_step, upto or 0)
        try:
            found = (stem.fullmatch(path.name) for path in self.settings.folder.iterdir())
            return self._written | {int(match[1]) for match in found if match and int(match[1]) <= last}
        except OSError:
            return self._written

    def _delete_old(self, step: int) -> None:
        if self.settings.keep is None:
            return
        for old in sorted(self._steps(step))[: -self.settings.keep]:
            self._delete(old)

    def _delete(self, step: int) -> None:
        if step in self.spared:
            return
        for path in {self.path(step), self.path(step).with_suffix(".safetensors")}:  # the second is that of --save_format
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s could not be deleted (%s)", path, error.strerror or error)
        self._written.discard(step)
