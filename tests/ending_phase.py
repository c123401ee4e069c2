"""A command that stays in one phase until it is told to end: `ending_phase.py PHASE`. Run by test_endings.py.

importing: before its main function; python: in Python's code; compiling: in C code that keeps Python's lock; unmarked: the same
where nothing says so; writing: a file, in such code; encoding: another process does; updates: a training loop's, of 0.3 s, which
saves; slow: the first of them takes long; quiet: it says nothing, but many lines to a reader that may have gone.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":
    ending.catch_signals()
    if sys.argv[1] == "importing":
        print("importing", file=sys.stderr, flush=True)

import time
from collections import deque
from itertools import repeat

if __name__ == "__main__" and sys.argv[1] == "importing":
    time.sleep(60)

from gm.console import bar, log, waiting
from gm.files import replacing
from gm.parallel.launch import run_command
from gm.process import run_in_subprocess


def keep_the_lock(passes: int = 10**11) -> None:
    """Minutes in C, where no other thread and no handler of a signal runs."""
    deque(repeat(None, passes), maxlen=0)


def encode() -> None:
    for _ in bar(range(1), "encoding"):
        log.info("encoding")
        keep_the_lock()


def updates(ranks, first: float) -> None:
    """As gm/training/loop.py ends: the ranks agree once an update."""
    with ending.finishing("the update"):
        for step in range(1, 200):
            if ranks.is_main:
                log.info("step %d", step)
            time.sleep(first if step == 1 else 0.3)
            asked = next((number for number in ranks.share(ending.asked_to_stop()) if number), None)
            if asked:
                if ranks.is_main:
                    Path("saved").write_text(str(step))
                raise ending.Interrupted(asked, f"stopped after step {step}: saved")


def main(argv, ranks) -> None:
    phase = argv[0]
    if phase == "python":
        log.info("python")
        time.sleep(60)
    elif phase == "compiling":
        with waiting("compiling"):
            keep_the_lock()
    elif phase == "unmarked":
        log.info("unmarked")
        keep_the_lock()
    elif phase == "writing":
        with replacing(Path("file")) as unfinished:
            unfinished.write_text("half")
            log.info("writing")
            keep_the_lock()
    elif phase == "encoding":
        run_in_subprocess(encode)
    elif phase in ("updates", "slow"):
        updates(ranks, 30 if phase == "slow" else 0.3)
    elif phase == "quiet":
        for number in range(2000):
            log.info("line %d", number)
            print(number)
        Path("saved").write_text("all")


if __name__ == "__main__":
    sys.exit(run_command(main))
