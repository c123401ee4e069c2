"""The processes of one job and what they tell each other on the host: small values, agreement on errors, the end.

Tensors go through MindSpore's collectives (collectives.py). mpi.py and rendezvous.py are the two ways ranks are connected;
here is what both share, and the one rank of a job that no launcher started. No MindSpore import.
"""

import os
import socket
import sys
import time
from contextlib import contextmanager
from typing import Any, Iterator, NoReturn, Optional, Sequence

from gm.errors import UserError


class Agreed(UserError):
    """An error that every rank has raised in the same words, so that one of them says it."""


class Ranks:
    """A job of one process; the subclasses connect several."""

    rank, size, local_rank = 0, 1, 0
    launcher: Optional[str] = None  # "mpirun" or "msrun"

    @property
    def is_main(self) -> bool:
        """Whether this process prints, draws and writes."""
        return self.rank == 0

    def share(self, value: Any) -> list:
        """The values that all ranks gave, in their order; every rank must call it. Values are what JSON can hold."""
        return [value]

    def open_cluster(self, master_addr: Optional[str], timeout: int) -> None:
        """Put the addresses that MindSpore's `init()` needs into the environment; before MindSpore is imported."""

    def fail(self, sentence: str, status: int, mark: str = "error: ") -> NoReturn:
        """End the whole job with `status`; `sentence` is said once, with `mark` before it."""
        print(f"{mark}{sentence}", file=sys.stderr, flush=True)
        sys.exit(status)

    def end_alone(self, sentence: str, status: int) -> NoReturn:
        """End this rank, which has been told to, and with it the job; `sentence` is said once."""
        self.fail(sentence, status, mark="")

    def leave(self) -> None:
        """The last call of a rank that has come to its end together with the others."""

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self.share(None)

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """The body runs on every rank; a UserError on any of them is raised on all, in the same words."""
        mistake = None
        try:
            yield
        except UserError as error:
            mistake = str(error)
        self._raise_first(self.share([socket.gethostname(), mistake]))

    def _raise_first(self, mistakes: Sequence[list]) -> None:
        words = [mistake for _, mistake in mistakes]
        if all(word is None for word in words):
            return
        if len(set(words)) == 1:
            raise Agreed(words[0])
        rank = next(rank for rank, word in enumerate(words) if word is not None)
        raise Agreed(f"rank {rank} on {mistakes[rank][0]}: {words[rank]}")

    def require_same(self, given: dict[str, Any]) -> None:
        """Raise the same UserError on all ranks unless each gave the same value under every name."""
        with self.agreeing():
            for rank, other in enumerate(self.share(given)):
                for name, value in other.items():
                    if value != given[name] and rank == 0:
                        raise UserError(
                            f"{name} differs from that of rank 0: give every process the same command line, and every "
                            "host the same files"
                        )


def deal(items: Sequence, ranks: int, rank: int) -> list:
    """The items of one rank when they are dealt out like cards."""
    return list(items[rank::ranks])


def widen_affinity() -> None:
    """Undo mpirun's default of binding a rank to one core or socket, under which compilation has only that one.

    A binding that the user asked for (`--bind-to`) stays.
    """
    if "OMPI_MCA_hwloc_base_binding_policy" not in os.environ:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def stagger(rank: int) -> None:
    """Let lower ranks speak first when several fail at once: whoever speaks first ends the job."""
    time.sleep(0.3 * rank)
