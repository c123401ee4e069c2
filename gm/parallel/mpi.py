"""Ranks under mpirun: mpi4py carries the small values and ends the job. Imported only under mpirun, since loading MPI
in a process that mpirun did not start aborts it."""

import os
import socket
import sys
import time
from typing import Any, NoReturn, Optional

from gm.errors import UserError
from gm.parallel import scheduler
from gm.parallel.ranks import Ranks, stagger, widen_affinity


class MpiRanks(Ranks):
    """The processes of one mpirun command."""

    launcher = "mpirun"

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise UserError(
                f"mpirun needs the package mpi4py and OpenMPI's library, and one does not load ({error}): "
                "pip install mpi4py, or start the command with msrun"
            ) from None
        self._mpi, self._world = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._world.rank, self._world.size
        self.local_rank = int(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"])
        widen_affinity()

    def share(self, value: Any) -> list:
        arrived = self._world.Ibarrier()
        while not arrived.Test():  # not MPI's own waiting, which keeps a core busy
            time.sleep(0.001)
        return self._world.allgather(value)

    def open_cluster(self, master_addr: Optional[str], timeout: int) -> None:
        """Rank 0 starts MindSpore's scheduler, at `master_addr` or an address of its own that the others can reach."""
        hosts, address = self.share(socket.gethostname()), None
        with self.agreeing():
            if self.is_main:
                host = master_addr or _own_address(hosts)
                _, port = scheduler.start(host, None, self.size)
                address = [host, port]
        host, port = self.share(address)[0]
        scheduler.set_worker_environment(host, port, self.rank, self.size, timeout)

    def fail(self, sentence: str, status: int, mark: str = "error: ") -> NoReturn:
        stagger(self.rank)
        bar = "\n" if self.rank else ""  # rank 0's progress bar may stand on the line that mpirun is showing
        print(f"{bar}{mark}{sentence}", file=sys.stderr, flush=True)
        time.sleep(0.2)  # mpirun forwards what was printed before it is told to end everything
        self._world.Abort(status)
        os._exit(status)

    def end_alone(self, sentence: str, status: int) -> NoReturn:
        """mpirun has sent the signal to all ranks, or does so when one has ended with a status."""
        if self.is_main:
            print(f"\n{sentence}", file=sys.stderr, flush=True)
        os._exit(status)

    def leave(self) -> None:
        """The scheduler ends with rank 0; ended earlier, MindSpore would end the ranks that miss it by a signal."""
        self.barrier()
        self._mpi.Finalize()


def _own_address(hosts: list[str]) -> str:
    """This host's address as the other hosts see it; the loopback address when there are none."""
    others = [host for host in hosts if host != socket.gethostname()]
    if not others:
        return "127.0.0.1"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
            probe.connect((others[0], 9))
            return probe.getsockname()[0]
    except OSError as error:
        raise UserError(
            f"the address of this host as {others[0]} sees it was not found ({error}): give --master_addr ADDRESS"
        ) from None
