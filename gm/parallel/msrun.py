"""Ranks under msrun: each has one connection to the rendezvous, which msrun starts as the scheduler process (rendezvous.py)."""

import os
import queue
import socket
import sys
import threading
import time
from typing import Any, NoReturn, Optional

from gm.errors import UserError
from gm.parallel import scheduler
from gm.parallel.ranks import Ranks
from gm.parallel.rendezvous import FAILED, address, keep_alive, read, send


class MsrunRanks(Ranks):
    """The workers of one msrun command."""

    launcher = "msrun"

    def __init__(self, timeout: int):
        if not os.environ.get("MS_NODE_ID"):
            raise UserError("msrun gave this process no rank: add --node_rank=0 on the first host, 1 on the second, ...")
        self.rank, self.size = int(os.environ["MS_NODE_ID"]), int(os.environ["MS_WORKER_NUM"])
        self.local_rank = int(os.environ.get("DEVICE_ID", "0"))
        self._connection = self._connect(time.monotonic() + timeout)
        self._inbox: queue.Queue = queue.Queue()
        self._leaving = False
        send(self._connection, "join", self.rank, socket.gethostname(), os.getpid())
        threading.Thread(target=self._listen, daemon=True).start()
        self._inbox.get()  # "joined": the rendezvous sees to the time this may take

    def _connect(self, deadline: float) -> socket.socket:
        while True:
            try:
                connection = socket.create_connection(address(), timeout=5)
                connection.settimeout(None)
                keep_alive(connection)
                return connection
            except OSError as error:
                if time.monotonic() > deadline:
                    host, port = address()
                    raise UserError(
                        f"rank {self.rank} on {socket.gethostname()} found no scheduler at {host}:{port} ({error}): start the "
                        "command on the host that --master_addr names as well, and let the port through"
                    ) from None
            time.sleep(0.2)

    def _listen(self) -> None:
        messages: queue.Queue = queue.Queue()
        threading.Thread(target=read, args=(self._connection, messages), daemon=True).start()
        while True:
            _, message = messages.get()
            if message is None and self._leaving:
                return
            if message is None or message[0] == "stop":
                if self.rank == 0:
                    print("ended with the whole job: scheduler.log, beside this log, says why", file=sys.stderr, flush=True)
                os._exit(FAILED)
            self._inbox.put(message[1:])

    def share(self, value: Any) -> list:
        send(self._connection, "share", value)
        return self._inbox.get()[0]

    def open_cluster(self, master_addr: Optional[str], timeout: int) -> None:
        """The addresses are msrun's; the rendezvous has started MindSpore's scheduler there."""
        if master_addr is not None:
            raise UserError("--master_addr is a flag of msrun here: put it before train_dreambooth.py")
        scheduler.tune_worker_environment(timeout)

    def fail(self, sentence: str, status: int, mark: str = "error: ") -> NoReturn:
        send(self._connection, "fail", sentence)
        time.sleep(5)  # the rendezvous's "stop" ends this process
        print(f"{mark}{sentence}", file=sys.stderr, flush=True)
        os._exit(status)

    def leave(self) -> None:
        self._leaving = True
        send(self._connection, "bye")
