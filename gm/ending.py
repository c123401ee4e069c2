"""How a command ends when it is told to: SIGINT (Ctrl-C), SIGTERM, and SIGHUP of a closed terminal, which counts as SIGTERM.

Anywhere a signal raises `Interrupted` in the main thread, which run_command turns into one sentence and status 130 or 143.
In the body of `finishing` the first one is only noted, and the body asks `asked_to_stop()` when it may stop; a second one
raises. No MindSpore import.
"""

import signal
import sys
import threading
from contextlib import contextmanager
from typing import Iterator, Optional

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to end (SIGTERM)"}


class Interrupted(KeyboardInterrupt):
    """The command has been told to end. The exit status is 128 + `signal`."""

    def __init__(self, number: int, sentence: Optional[str] = None):
        """`number`: signal.SIGINT or SIGTERM. `sentence`: what is said; None: that what was saved is kept."""
        self.signal = int(number)
        self.sentence = sentence or f"{NAMES[signal.Signals(number)]}; what was saved so far is kept"
        super().__init__(self.sentence)

    @property
    def status(self) -> int:
        return 128 + self.signal


class _State:
    """Of this process."""

    caught = False  # whether the handlers are in place
    finishing: Optional[str] = None  # what is finished before a signal acts
    asked: Optional[int] = None  # the signal that has come meanwhile


def catch_signals() -> None:
    """Put the handlers in place, in the main thread of a command; a signal that is ignored (nohup) stays so."""
    if _State.caught or threading.current_thread() is not threading.main_thread():
        return
    _State.caught = True
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


@contextmanager
def finishing(what: str) -> Iterator[None]:
    """In the body the first signal interrupts nothing: it makes `asked_to_stop()` true, and it is said once that `what` is
    being finished. The second one raises `Interrupted`."""
    _State.finishing, _State.asked = what, None
    try:
        yield
    finally:
        _State.finishing = _State.asked = None


def asked_to_stop() -> Optional[int]:
    """The signal that has come in the body of `finishing`, or None."""
    return _State.asked


def _on_signal(number: int, frame) -> None:
    number = signal.SIGTERM if number == signal.SIGHUP else number
    if _State.finishing is None or _State.asked is not None:
        raise Interrupted(number)
    _State.asked = int(number)
    print(f"\nfinishing {_State.finishing}, then saving; again to leave at once", file=sys.stderr, flush=True)
