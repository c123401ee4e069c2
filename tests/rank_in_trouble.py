"""train_dreambooth.py with trouble on rank 1: `rank_in_trouble.py TROUBLE [FOLDER] -- arguments`. Run by test_parallel.py.

killed: SIGKILL during step 3; raises: an exception there; disk: rank 0 finds the disk full when it saves the state;
elsewhere FOLDER: rank 1 works in another folder; late: it comes to one update 6 s later than the others.
"""

import errno
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_dreambooth
from gm.parallel.launch import run_command
from gm.runtime import quiet_environment


def prepare(trouble: str, where: str) -> None:
    """Arrange the trouble on the rank that shall have it."""
    rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("MS_NODE_ID", "-1")))
    quiet_environment()
    if trouble == "elsewhere" and rank == 1:
        os.chdir(where)
    if trouble in ("killed", "raises", "late") and rank == 1:
        from gm.training.step import Trainer

        accumulate = Trainer.accumulate

        def in_trouble(self, *given):
            if self.step == 2 and trouble == "late":
                time.sleep(3)  # it has two micro-batches
            elif self.step == 2 and trouble == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.step == 2:
                raise RuntimeError("something that nobody foresaw")
            return accumulate(self, *given)

        Trainer.accumulate = in_trouble
    if trouble == "disk" and rank == 0:
        from gm.training import checkpoints, results

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        results.write_tensors = full
        checkpoints.LAST_TRIES = (0.0, 1.0)


def main(argv, ranks):
    """The command, with the trouble that stands before `--`."""
    split = argv.index("--")
    trouble, where = (argv[:split] + [""])[:2]
    if ranks.size > 1:
        prepare(trouble, where)
    train_dreambooth.main(argv[split + 1 :], ranks)


if __name__ == "__main__":
    sys.exit(run_command(main))
