"""The process that msrun starts as scheduler: it passes small values between the ranks, and ends the job when one of
them fails, dies or never comes.

JSON lines over TCP, one connection a rank. A rank says ["join", rank, host, pid], ["share", value], ["fail", sentence],
["bye"]; the rendezvous says ["joined"], ["shared", values], ["stop"]. What it prints goes into msrun's scheduler.log, from which
`msrun --join=True` shows the lines with the word ERROR.
"""

import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from gm.errors import UserError
from gm.parallel import scheduler

FAILED = 1  # exit status of the ranks that end because another one failed
PORTS_AWAY = 10_000


def address() -> tuple[str, int]:
    """Where the rendezvous listens: MindSpore's scheduler's host, ten thousand ports away."""
    port = int(os.environ["MS_SCHED_PORT"])
    return os.environ["MS_SCHED_HOST"], port + PORTS_AWAY if port < 55_000 else port - PORTS_AWAY


def send(connection: socket.socket, *message: Any) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # the other end is gone; its reader says so


def keep_alive(connection: socket.socket) -> None:
    """Notice within half a minute that the host at the other end is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)  # of data nobody acknowledges, ms


def read(connection: socket.socket, inbox: queue.Queue, who: Any = None) -> None:
    """Put every message of a connection into the inbox as (who, message), and (who, None) at its end."""
    try:
        with connection.makefile("rb") as lines:
            for line in lines:
                inbox.put((who, json.loads(line)))
    except (OSError, ValueError):
        pass
    inbox.put((who, None))


def say(sentence: str) -> None:
    print(f"ERROR: {sentence}", file=sys.stderr, flush=True)


@dataclass
class _Member:
    """A rank as the rendezvous sees it."""

    rank: int
    host: str
    pid: int
    connection: socket.socket
    value: Optional[list] = None  # what it shared in the round that is under way
    leaving: bool = False  # it has said goodbye
    gone: bool = False  # its process has ended, which until then may need the scheduler

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (process {self.pid})"


def serve(timeout: int) -> int:
    """Run the rendezvous and MindSpore's scheduler until the job ends; returns this process's exit status."""
    size, (host, port) = int(os.environ["MS_WORKER_NUM"]), address()
    try:
        listener = socket.create_server((host, port), backlog=size)
    except OSError as error:
        say(f"the address {host}:{port} cannot be used ({error}): give msrun another --master_port")
        return FAILED
    inbox: queue.Queue = queue.Queue()
    threading.Thread(target=_accept, args=(listener, inbox), daemon=True).start()
    rendezvous = _Rendezvous(size, inbox)
    try:
        process, _ = scheduler.start(os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"]), size)
    except UserError as error:
        rendezvous.gather(5)
        return rendezvous.stop(str(error))
    msrun = os.getppid()
    try:
        return rendezvous.run(timeout)
    finally:
        process.kill()
        if os.getppid() != msrun:
            _end_tails()


def _end_tails() -> None:
    """End the processes that show the workers' logs (msrun --join=True), which msrun leaves behind when it is killed."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"/usr/bin/tail\0-f\0") and os.getpgid(
                int(entry.name)
            ) == os.getpgrp():
                os.kill(int(entry.name), signal.SIGTERM)
        except OSError:
            pass


def _accept(listener: socket.socket, inbox: queue.Queue) -> None:
    while True:
        connection, _ = listener.accept()
        keep_alive(connection)
        threading.Thread(target=read, args=(connection, inbox, connection), daemon=True).start()


class _Rendezvous:
    def __init__(self, size: int, inbox: queue.Queue):
        self.size, self.inbox = size, inbox
        self.members: dict[socket.socket, _Member] = {}

    def run(self, timeout: int) -> int:
        if not self.gather(timeout):
            missing = sorted(set(range(self.size)) - {member.rank for member in self.members.values()})
            return self.stop(
                f"rank {', '.join(map(str, missing))} did not join within {timeout} s ({len(self.members)} of {self.size} "
                "came): start the command on every host, or allow more time with --join_timeout"
            )
        for connection in self.members:
            send(connection, "joined")
        while not all(member.gone for member in self.members.values()):
            connection, message = self.inbox.get()
            member = self.members.get(connection)
            if member is None:
                continue  # a stranger who connected to the port
            problem = self._handle(member, message)
            if problem:
                return self.stop(problem)
        return 0

    def gather(self, timeout: int) -> bool:
        """Wait for all ranks; False when some are missing after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while len(self.members) < self.size:
            try:
                connection, message = self.inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return False
            if message and message[0] == "join":
                self.members[connection] = _Member(message[1], message[2], message[3], connection)
            elif connection in self.members and message is None:
                del self.members[connection]
        return True

    def _handle(self, member: _Member, message: Optional[list]) -> Optional[str]:
        """What to end the job with, or None."""
        if message is None:
            member.gone = True
            return None if member.leaving else f"{member} ended without a word: it was killed, or it crashed"
        if message[0] == "fail":
            return message[1]
        if message[0] == "bye":
            member.leaving = True
        if message[0] == "share":
            member.value = [message[1]]
            if all(other.value is not None for other in self.members.values()):
                values = [other.value[0] for other in sorted(self.members.values(), key=lambda m: m.rank)]
                for other in self.members.values():
                    other.value = None
                    send(other.connection, "shared", values)
        return None

    def stop(self, sentence: str) -> int:
        """Say why, once, and end every rank."""
        say(sentence)
        left = set(self.members)
        for connection in left:
            send(connection, "stop")
        deadline = time.monotonic() + 3
        while left and time.monotonic() < deadline:
            try:
                connection, message = self.inbox.get(timeout=0.2)
            except queue.Empty:
                continue
            if message is None:
                left.discard(connection)
        return FAILED
