"""Running one stage in a process of its own, so that its memory is given back: MindSpore keeps the weights of every
graph it has compiled until the process ends (seen with 2.7.1: deleting the network frees nothing). Keeping an object in
one for many calls. And running a stage in a thread beside it."""

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from multiprocessing.reduction import ForkingPickler
from typing import Callable, Iterator, Optional, TypeVar

from gm import console, ending
from gm.console import Viewer, log
from gm.errors import UserError
from gm.parallel.scheduler import without_cluster

Result = TypeVar("Result")
SIGNALS = {*ending.SIGNALS, signal.SIGUSR1}


def run_in_subprocess(function: Callable[..., Result], *arguments) -> Result:
    """`function(*arguments)` in a new process, which ends with it; progress and errors look the same as here.

    Function, arguments and result must be picklable. UserError when the process is killed from outside. What is raised here
    meanwhile ends the process.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = _started(_run, there, os.getpid(), function, arguments)
    there.close()
    try:
        value, error, words = here.recv()
    except EOFError:
        raise UserError(
            f"the process for {function.__name__} was killed, most likely for want of memory: free some, or use a "
            "smaller model"
        ) from None
    finally:
        process.kill()
        process.join()
        here.close()
    if error is not None:
        raise error from _Remote(words)
    return value


class _Remote(Exception):
    """The traceback of the other process, in words."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _run(pipe: connection.Connection, quiet: bool, parent: int, function: Callable[..., object], arguments: tuple) -> None:
    """The other side of `run_in_subprocess`: (result, error, its traceback in words)."""
    ending.end_with_parent(parent)
    _begin(quiet)
    try:
        answer = function(*arguments), None, ""
    except Exception as error:
        answer = None, error, traceback.format_exc()
    try:
        words = ForkingPickler.dumps(answer)
        if answer[1] is not None:
            ForkingPickler.loads(words)
    except Exception:
        what = answer[1] or answer[0]
        words = ForkingPickler.dumps(
            (None, RuntimeError(f"{type(what).__name__}: {what}"), answer[2] or traceback.format_exc())
        )
    sys.stdout.flush()
    sys.stderr.flush()
    pipe.send_bytes(words)


def _started(function: Callable[..., None], pipe: connection.Connection, *given) -> multiprocessing.Process:
    """A new process at `function(pipe, quiet, *given)`."""
    quiet = log.level >= logging.ERROR
    # not a daemonic process, which may have no children: CANN's operator compiler starts some
    process = multiprocessing.get_context("spawn").Process(target=function, args=(pipe, quiet, *given))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # its start lets SIGINT and SIGTERM through again, here and below
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until `_begin`
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


class Worker:
    """An object in a process of its own, for one call after another. Nothing that it computes holds up the threads here,
    and a call can be given up. Progress and errors look the same as here; it ends with this process.
    """

    def __init__(self, viewer: Viewer, make: Callable[..., object], *arguments):
        """The object is `make(*arguments)`, all of it picklable. `viewer` is told of the progress, with the seconds of what
        takes long; when it raises, the process ends."""
        here, there = multiprocessing.Pipe()
        self._process = _started(_serve, there, make, arguments)
        atexit.register(self.end)  # before multiprocessing waits for it; where this process is killed, `_end_with_parent`
        there.close()
        self._connection, self._working = here, True
        try:
            self._result(viewer)
        except BaseException:
            self.end()
            raise

    def call(self, viewer: Viewer, method: str, *arguments):
        """`method(*arguments)` of the object. What `viewer` raises gives the call up: it ends at its next sign of progress,
        which the next call waits for. UserError when the process has been killed from outside."""
        if self._working:
            self._answer(viewer)  # of a call that was given up
        try:
            self._connection.send((method, arguments))
        except OSError:
            raise self._killed() from None
        self._working = True
        return self._result(viewer)

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def end(self) -> None:
        """End the process, which gives its memory back."""
        atexit.unregister(self.end)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _result(self, viewer: Viewer):
        kind, value = self._answer(viewer)
        if kind == "error":
            raise value
        return value

    def _answer(self, viewer: Viewer) -> tuple[str, object]:
        """("result", value) or ("error", exception) of what is at work there."""
        words, share, since = "starting", None, time.monotonic()
        try:
            while True:
                if not self._connection.poll(0.5):
                    viewer(f"{words}, {time.monotonic() - since:.0f} s", share)
                    continue
                kind, value = self._connection.recv()
                if kind != "progress":
                    self._working = False
                    return kind, value
                (words, share), since = value, time.monotonic()
                viewer(words, share)
        except (EOFError, ConnectionResetError):
            raise self._killed() from None
        except BaseException:
            if self._working:
                with suppress(OSError):
                    self._connection.send(None)
            raise

    def _killed(self) -> UserError:
        self._process.join()
        return UserError(
            "the process with the model was killed, most likely for want of memory: free some, or use a smaller model or "
            "smaller pictures; the next try starts it again"
        )


class _GivenUp(Exception):
    """Nobody wants the result any more."""


def _serve(pipe: connection.Connection, quiet: bool, make: Callable[..., object], arguments: tuple) -> None:
    """The other side of `Worker`: answers (method, arguments) until the process is ended; None gives up what is at work."""

    def tell(words: str, share: Optional[float]) -> None:
        if pipe.poll():
            pipe.recv()
            raise _GivenUp
        pipe.send(("progress", (words, share)))

    def attempt(function: Callable[..., object], *given) -> tuple[str, object]:
        try:
            return "result", function(*given)
        except Exception as error:
            if isinstance(error, _GivenUp) or console.explain(error):
                return "error", error
            traceback.print_exc()
            return "error", RuntimeError(f"{type(error).__name__}: {error}")

    _begin(quiet)
    with console.viewed_by(tell):
        kind, kept = attempt(make, *arguments)
        pipe.send((kind, kept if kind == "error" else None))
        while kind == "result":
            message = pipe.recv()
            if message is not None:
                method, given = message
                pipe.send(attempt(getattr(kept, method), *given))
    pipe.poll(None)  # the error has been read when the other side is closed


@contextmanager
def beside(function: Callable[[], Result], wait_first: bool = False) -> Iterator[Future]:
    """Run `function()` in a thread while the body runs, or with `wait_first` here before it; the body is given its future.

    When the body fails, the processes that the function runs in (`run_in_subprocess`) are ended, and so the function.
    """
    if wait_first:
        done: Future = Future()
        done.set_result(function())
        yield done
        return
    others = set(multiprocessing.active_children())
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function)
        try:
            yield future
        except BaseException:
            while not future.done():
                for child in set(multiprocessing.active_children()) - others:
                    child.kill()
                wait([future], 0.2)
            raise


def _begin(quiet: bool) -> None:
    for number in SIGNALS:
        signal.signal(number, _unheard)  # and not SIG_IGN, which what this process starts would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    console.keep_streams()
    for key in set(os.environ) - set(without_cluster(dict(os.environ))):
        del os.environ[key]  # it is not one of the job's ranks
    threading.Thread(target=_end_with_parent, daemon=True).start()
    console.set_up(quiet)


def _unheard(number: int, frame: object) -> None:
    """A terminal and many launchers send a signal to all of a command's processes; the first one ends the others, and says so."""


def _end_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
