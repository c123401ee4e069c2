"""What a person sees: the project's log lines, progress bars, and errors as one sentence. No MindSpore import."""

import errno
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Callable, Iterable, Iterator, Optional, Sequence, TextIO

from tqdm import tqdm

from gm import ending
from gm.errors import UserError

log = logging.getLogger("gm")

Hold = Callable[[], bool]  # whether something else has a bar on the screen
Viewer = Callable[[str, Optional[float]], None]  # words, and the share that is done where it is known
Count = Callable[[], None]  # called after each step
_viewer: ContextVar[Optional[Viewer]] = ContextVar("viewer", default=None)
_count: ContextVar[Optional[Count]] = ContextVar("count", default=None)


class _AroundBars(logging.Handler):
    """Writes through tqdm, so that a line does not break a bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class _Lasting:
    """A standard stream whose reader may go (`| head`, a closed terminal): what is written from then on goes nowhere."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, do: Callable, *given) -> None:
        try:
            do(*given)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # for MindSpore's own lines as well
            os.close(nowhere)


def keep_streams() -> None:
    """The process goes on when nobody reads its words any more."""
    sys.stdout, sys.stderr = _Lasting(sys.stdout), _Lasting(sys.stderr)


def begin_process() -> None:
    """What the process of a command is to be before anything else: told by signals to end, not by a lost reader."""
    ending.catch_signals()
    keep_streams()


def set_up(quiet: bool = False) -> None:
    """Log lines of this project go to standard error, warnings with the word before them; `quiet` keeps only errors."""
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which stays when the process is ended

    class Words(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            text = record.getMessage()
            return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"

    handler = _AroundBars()
    handler.setFormatter(Words())
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.ERROR if quiet else logging.INFO)


@contextmanager
def viewed_by(viewer: Viewer) -> Iterator[None]:
    """While the body runs, `viewer` is told of the steps of this thread's bars and of its waits; what it raises ends it."""
    before = _viewer.set(viewer)
    try:
        yield
    finally:
        _viewer.reset(before)


@contextmanager
def counting_steps(count: Count) -> Iterator[None]:
    """In the body, this thread's bars over steps are not shown: each calls `count` after a step instead, for a bar over all of
    them. What `count` raises ends the steps."""
    before = _count.set(count)
    try:
        yield
    finally:
        _count.reset(before)


class _Bar(tqdm):
    """A bar that tells a viewer which item is at work."""

    viewer: Optional[Viewer] = None
    count: Optional[Count] = None

    def __iter__(self) -> Iterator:
        for done, item in enumerate(super().__iter__()):
            if self.viewer:
                share = done / self.total if self.total else None
                self.viewer(f"{self.what} {done + 1}" + (f" of {self.total}" if self.total else ""), share)
            yield item
            if self.count:
                self.count()


def bar(items: Optional[Iterable], what: str, **settings) -> tqdm:
    """A progress bar on standard error. Silent when the log is quiet (ranks other than 0)."""
    settings.setdefault("dynamic_ncols", True)
    if not sys.stderr.isatty():  # a log file: few lines, and each stays
        settings |= {"mininterval": 10.0, "leave": True}
    count = _count.get() if settings.get("unit") == "step" else None
    settings.setdefault("disable", _is_quiet() or count is not None)
    line = _Bar(items, desc=what, file=sys.stderr, **settings)
    line.count = count
    line.viewer, line.what = _viewer.get(), f"{what}, {settings.get('unit', 'item')}"
    return line


def _is_quiet() -> bool:
    return log.level >= logging.ERROR


def never() -> bool:
    """Nothing else is shown."""
    return False


@contextmanager
def waiting(what: str, hold: Hold = never) -> Iterator[None]:
    """Shows "<what>, n s" while the body runs, and the time it took afterwards; in a log file one line a minute.

    It shows nothing as long as `hold()`: something else has a bar on the screen. A signal ends the command at once.
    """
    start, over = time.perf_counter(), threading.Event()
    live, viewer = sys.stderr.isatty(), _viewer.get()
    if viewer:
        viewer(what, None)
    if not live:
        log.info("%s ...", what)
    shown = bar(None, what, bar_format="{desc}", leave=False, disable=not live or _is_quiet())
    with ending.leaving(what), shown as line:

        def tick() -> None:
            while not over.wait(0.5 if live else 60.0):
                if hold():
                    continue
                seconds = time.perf_counter() - start
                if live:
                    line.set_description_str(f"{what}, {seconds:.0f} s")
                else:
                    log.info("%s, %.0f s", what, seconds)

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
    log.info("%s: %.1f s", what, time.perf_counter() - start)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], text: int = 2) -> str:
    """Aligned columns, the first `text` of them to the left, the others, which are numbers, to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    aligned = (
        "  ".join(cell.ljust(width) if i < text else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in aligned)


def explain(error: BaseException) -> Optional[tuple[str, int]]:
    """The sentence and the exit status for what a person can mend; None for anything else."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; what was saved so far is kept, make room and run again", 2
    if isinstance(error, ending.Interrupted):
        return error.sentence, error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; what was saved so far is kept", 130
    return None


def report(error: BaseException) -> int:
    """Print the sentence for an error that has one, and return the exit status."""
    sentence, status = explain(error)
    ending.is_said()
    start = "\n" if isinstance(error, ending.Interrupted) else ""  # a bar of an ended process may stand there
    print(start + sentence if isinstance(error, KeyboardInterrupt) else f"error: {sentence}", file=sys.stderr, flush=True)
    return status


def run_command(command: Callable[[Sequence[str]], None], argv: Optional[Sequence[str]] = None) -> int:
    """Run a command's main function; returns the exit status: 0, 2 for bad input, 130 or 143 when told to end.

    Signals are caught where the command is this process's own, its words those of `sys.argv`.
    """
    if argv is None:
        begin_process()
    set_up()
    try:
        with ending.running():
            command(sys.argv[1:] if argv is None else argv)
    except BaseException as error:
        if explain(error) is None:
            raise
        return report(error)
    return 0
