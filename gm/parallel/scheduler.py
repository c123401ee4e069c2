"""MindSpore's scheduler: the process through which ranks find each other before the first collective.

It is a process of its own because `init()` holds Python's lock for as long as it serves (seen with 2.7.1), and it
does not end by itself, so it is tied to the life of the process that starts it.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

from gm.ending import end_with_parent
from gm.errors import UserError

STARTUP_SECONDS = 60


def start(host: str, port: Optional[int], workers: int) -> tuple[subprocess.Popen, int]:
    """Start a scheduler listening at host:port (a free port when None); returns it and its port.

    UserError when it does not come up, as on a port that is taken.
    """
    if port is not None:
        return _start(host, port, workers), port
    for attempt in range(3):
        port = _free_port(host)
        try:
            return _start(host, port, workers), port
        except UserError:
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def _free_port(host: str) -> int:
    try:
        with socket.socket() as probe:
            probe.bind((host, 0))
            return probe.getsockname()[1]
    except OSError as error:
        raise UserError(
            f"{host} is not an address of the host of rank 0 ({error.strerror or error}): give one of its own as --master_addr"
        ) from None


def _start(host: str, port: int, workers: int) -> subprocess.Popen:
    root = str(Path(__file__).resolve().parent.parent.parent)
    environment = without_cluster(os.environ)
    environment |= {"MS_ROLE": "MS_SCHED", "MS_SCHED_HOST": host, "MS_SCHED_PORT": str(port), "MS_WORKER_NUM": str(workers)}
    environment |= {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]), "GLOG_v": "4"}
    process = subprocess.Popen(
        [sys.executable, "-m", "gm.parallel.scheduler", str(os.getpid())],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # what is sent to all processes of a command is not for it
    )
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                time.sleep(0.2)
                if process.poll() is None:
                    return process
        time.sleep(0.1)
    process.kill()
    raise UserError(
        f"MindSpore's scheduler did not come up at {host}:{port}: is the port taken, or the address not of this host?"
    )


def set_worker_environment(host: str, port: int, rank: int, ranks: int, timeout: int) -> None:
    """What MindSpore's `init()` reads in a rank (documented under "dynamic cluster")."""
    os.environ |= {
        "MS_ROLE": "MS_WORKER",
        "MS_SCHED_HOST": host,
        "MS_SCHED_PORT": str(port),
        "MS_NODE_ID": str(rank),
        "MS_WORKER_NUM": str(ranks),
    }
    tune_worker_environment(timeout)


def tune_worker_environment(timeout: int) -> None:
    """Shorter pauses between attempts to join (3-5 s by default), and `timeout` seconds in all."""
    os.environ["MS_TOPO_TIMEOUT"] = str(timeout)
    os.environ.setdefault("MS_RETRY_INTERVAL_LOWER", "1")
    os.environ.setdefault("MS_RETRY_INTERVAL_UPPER", "2")


def without_cluster(environment: dict[str, str]) -> dict[str, str]:
    """The environment without what makes a process one of a job's ranks."""
    ours = ("MS_ROLE", "MS_SCHED_", "MS_NODE_", "MS_WORKER_NUM", "OMPI_", "PMIX_", "RANK_")
    return {key: value for key, value in environment.items() if not key.startswith(ours)}


def main(parent: int) -> None:
    """Serve until the process `parent` kills this one, or dies."""
    end_with_parent(parent)
    import mindspore as ms
    from mindspore.communication import init

    ms.set_device("CPU")
    init()


if __name__ == "__main__":
    main(int(sys.argv[1]))
