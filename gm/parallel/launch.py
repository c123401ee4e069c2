"""Starting: which launcher started this process, joining the other ranks, and ending together with them."""

import os
import sys
import traceback
from typing import Callable, Optional, Sequence

from gm import console, ending
from gm.ending import Interrupted
from gm.errors import UserError
from gm.parallel.ranks import Agreed, Ranks

JOIN_TIMEOUT = 50  # seconds a rank waits for the others at the start


def launcher() -> Optional[str]:
    """Which launcher started this process: "mpirun", "msrun" or None."""
    if "MS_ROLE" in os.environ and "MS_SCHED_PORT" in os.environ:
        return "msrun"
    return "mpirun" if "OMPI_COMM_WORLD_SIZE" in os.environ else None


def join(timeout: int) -> Ranks:
    """The ranks of this job, connected. UserError when the others do not come."""
    if launcher() == "mpirun":
        from gm.parallel.mpi import MpiRanks

        return MpiRanks()
    if launcher() == "msrun":
        from gm.parallel.msrun import MsrunRanks

        return MsrunRanks(timeout)
    return Ranks()


def check_launcher(ranks: Ranks, is_parallel: bool) -> None:
    """UserError when --is_parallel and the launcher do not go together."""
    if is_parallel and ranks.launcher is None:
        raise UserError("--is_parallel True needs a launcher: put mpirun -n N or msrun --worker_num=N before the command")
    if ranks.size > 1 and not is_parallel:
        raise UserError(
            f"{ranks.launcher} started {ranks.size} processes, but --is_parallel True is missing, and each would train by "
            "itself: add it, or start one process"
        )


def run_command(command: Callable[[Sequence[str], Ranks], None], argv: Optional[Sequence[str]] = None) -> int:
    """Run a command's main function on this rank; returns the exit status, the same on all ranks."""
    if argv is None:
        console.begin_process()
    argv = list(sys.argv[1:] if argv is None else argv)
    timeout = _join_timeout(argv)
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        from gm.parallel import rendezvous

        return rendezvous.serve(timeout)
    if launcher() is None:
        return console.run_command(lambda words: command(words, Ranks()), argv)
    console.set_up()
    try:
        with ending.running():
            return _on_rank(command, argv, timeout)
    except Interrupted as error:  # before the ranks were joined
        return console.report(error)


def _on_rank(command: Callable[[Sequence[str], Ranks], None], argv: Sequence[str], timeout: int) -> int:
    try:
        ranks = join(timeout)
    except UserError as error:
        return console.report(error)
    console.set_up(quiet=not ranks.is_main)
    if not ranks.is_main:
        sys.stdout = open(os.devnull, "w")
    try:
        command(argv, ranks)
        status = 0
    except Agreed as error:
        status = console.report(error) if ranks.is_main else 2
    except SystemExit as error:  # --help
        status = error.code or 0
    except Interrupted as error:
        if not error.agreed:
            ending.is_said()
            ranks.end_alone(error.sentence, error.status)
        ending.is_said()
        status = console.report(error) if ranks.is_main else error.status
    except BaseException as error:
        sentence, status = console.explain(error) or (None, 1)
        if sentence is None:
            traceback.print_exc()
            sentence = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        ranks.fail(f"rank {ranks.rank} on {os.uname().nodename} failed: {sentence}", status)
    ranks.leave()
    _end(status)
    return status


def _join_timeout(argv: Sequence[str]) -> int:
    """The value of --join_timeout, which is needed before the command line is read; anything odd is left to that."""
    for word, following in zip(argv, [*argv[1:], ""]):
        value = word.partition("=")[2] if word.startswith("--join_timeout=") else following
        if word.partition("=")[0] == "--join_timeout" and value.isdigit():
            return int(value)
    return JOIN_TIMEOUT


def _end(status: int) -> None:
    """End the process here: MindSpore's own end waits for its scheduler, which ends with rank 0, writes to the screen, and
    where it misses the scheduler ends by a signal."""
    sys.stdout.flush()
    sys.stderr.flush()
    if "mindspore" in sys.modules:
        os._exit(status)
