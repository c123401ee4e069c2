"""Running one stage in a process of its own, so that its memory is given back: MindSpore keeps the weights of every
graph it has compiled until the process ends (seen with 2.7.1: deleting the network frees nothing). And running one in a
thread beside it."""

import logging
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Callable, Iterator, TypeVar

from gm import console
from gm.console import log
from gm.errors import UserError
from gm.parallel.scheduler import without_cluster

Result = TypeVar("Result")


def run_apart(function: Callable[..., Result], *arguments) -> Result:
    """`function(*arguments)` in a new process, which ends with it; progress and errors look the same as here.

    Function, arguments and result must be picklable. UserError when the process is killed from outside.
    """
    context = multiprocessing.get_context("spawn")
    quiet = log.level >= logging.ERROR
    with ProcessPoolExecutor(1, context, initializer=_begin, initargs=(quiet,)) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise UserError(
                f"the process for {function.__name__} was killed, most likely for want of memory: free some, or use a "
                "smaller model"
            ) from None


@contextmanager
def beside(function: Callable[[threading.Event], Result]) -> Iterator[Callable[[], Result]]:
    """Run `function(over)` in a thread while the body runs; what is given waits for its result.

    `over` is set when the body fails: the function should then return soon.
    """
    over = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(function, over)
        try:
            yield future.result
        except BaseException:
            over.set()
            raise


def _begin(quiet: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it silently; the first process says so
    for key in set(os.environ) - set(without_cluster(dict(os.environ))):
        del os.environ[key]  # it is not one of the job's ranks
    threading.Thread(target=_end_with_parent, daemon=True).start()
    console.set_up(quiet)


def _end_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
