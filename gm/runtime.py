"""The only file that knows the platform: device, mode, precision, ranks. Everything Ascend-only stands here.

Lines for Ascend are written against the documented MindSpore 2.7 API; not run on Ascend.
"""

import os
from dataclasses import dataclass
from typing import Optional

import numpy as np

from gm.errors import UserError
from gm.parallel.ranks import Ranks

GRAPH, PYNATIVE = 0, 1


@dataclass(frozen=True)
class Runtime:
    device: str  # "Ascend", "GPU" or "CPU"
    mode: int  # 0 graph, 1 PyNative
    amp_level: str  # "O0" float32, "O2" float16 with float32 norms, softmax and LoRA matrices
    device_id: int = 0  # which of this host's devices

    @property
    def dtype(self):
        """The compute type of the UNet and the text encoders; the VAE is always float32."""
        import mindspore as ms

        return ms.float16 if self.amp_level == "O2" else ms.float32

    @property
    def shares_device(self) -> bool:
        """Whether two processes may compute on the device at once; an accelerator's memory may be one's alone."""
        return self.device == "CPU"

    def enter(self) -> None:
        """Make this process compute on the device, in the mode; for one that a process with this Runtime has started."""
        quiet_environment()
        import mindspore as ms

        ms.set_device(self.device, self.device_id if self.device != "CPU" else 0)
        ms.set_context(mode=self.mode)


def composes_kernels() -> bool:
    """Whether layers whose stock kernel is slow should be composed of other operators: on the CPU, not where MindSpore
    has fused kernels. Asked while a network is built, after `start` or `enter`."""
    import mindspore as ms

    return ms.get_context("device_target") == "CPU"


def device_here() -> str:
    """Where to compute when nobody says: "Ascend" where its driver has made device files, else "CPU". Without MindSpore."""
    return "Ascend" if os.path.exists("/dev/davinci_manager") else "CPU"


def quiet_environment() -> None:
    """Keep MindSpore's own log below errors and its files out of the user's folder; call before importing it."""
    os.environ.setdefault("GLOG_v", "3")
    os.environ.setdefault("ASCEND_GLOBAL_LOG_LEVEL", "3")
    os.environ.setdefault("ASCEND_SLOG_PRINT_TO_STDOUT", "0")


def start(
    device: str,
    mode: int,
    amp_level: Optional[str],
    seed: int,
    ranks: Ranks = Ranks(),
    max_device_memory: Optional[str] = None,
    master_addr: Optional[str] = None,
    join_timeout: int = 50,
) -> Runtime:
    """Choose device and mode, and join the other ranks in MindSpore's collectives if there are any.

    Raises UserError, the same on every rank, when the device is not there or the ranks cannot reach each other.
    """
    quiet_environment()
    machine = Runtime(device, mode, amp_level or ("O0" if device == "CPU" else "O2"), ranks.local_rank)
    if ranks.size > 1:
        with ranks.agreeing():
            ranks.open_cluster(master_addr, join_timeout)  # into the environment, which MindSpore reads when imported
    import mindspore as ms

    with ranks.agreeing():
        if device != "CPU":
            _require(device, ranks.local_rank)
    machine.enter()
    ms.set_seed(seed)
    if device == "Ascend" and max_device_memory:
        ms.runtime.set_memory(max_size=max_device_memory)
    if ranks.size > 1:
        _join(ranks)
    return machine


def _require(device: str, device_id: int) -> None:
    """Raise UserError unless the installed MindSpore can drive `device` number `device_id` here."""
    import mindspore as ms

    wanted = {
        "Ascend": "the CANN toolkit and driver that pair with it (CANN 8.3.RC1 for MindSpore 2.7.1)",
        "GPU": "a MindSpore build for GPUs",
    }[device]
    try:
        count = ms.hal.device_count(device) if ms.hal.is_available(device) else 0
    except (ValueError, RuntimeError):
        count = 0
    if 0 < count <= device_id:
        raise UserError(
            f"there are {count} {device} devices here, but more processes than that: start at most {count} on this host"
        )
    if count == 0:
        raise UserError(
            f"--device_target {device} was given, but MindSpore {ms.__version__} finds no {device} device here: "
            f"install {wanted} and load its environment, or give --device_target CPU"
        )


def _join(ranks: Ranks) -> None:
    """Open MindSpore's collectives: HCCL on Ascend, MindSpore's own on the CPU."""
    from mindspore.communication import get_group_size, get_rank, init

    init()
    assert (get_rank(), get_group_size()) == (ranks.rank, ranks.size), "MindSpore numbers the ranks in another way"


def gather_rows(rows: np.ndarray, ranks: Ranks) -> np.ndarray:
    """The float32 rows (n, ...) of all ranks in the order of the ranks, (sum of n, ...); n may differ, and be 0 when
    the shape of a row is given: (0, ...). Through MindSpore's collectives, in pieces of 16 MB."""
    if ranks.size == 1:
        return rows
    counts = ranks.share(len(rows))
    whole = np.zeros((sum(counts), *rows.shape[1:]), np.float32)
    first = sum(counts[: ranks.rank])
    whole[first : first + len(rows)] = rows  # zero in the places of the others, so that the sum over ranks is the whole
    return _sum_over_ranks(whole.reshape(-1), ranks).reshape(whole.shape)


PIECE = 4 * 2**20  # numbers in one piece


def sum_cell():
    """A network that sums its argument over all ranks."""
    from mindspore import nn, ops

    class Sum(nn.Cell):
        def __init__(self):
            super().__init__()
            self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

        def construct(self, x):
            return self.all_reduce(x)

    return Sum()


def _sum_over_ranks(flat: np.ndarray, ranks: Ranks) -> np.ndarray:
    import mindspore as ms

    add, total = sum_cell(), np.empty_like(flat)
    for start in range(0, len(flat), PIECE):
        piece = np.zeros(PIECE, np.float32)
        part = flat[start : start + PIECE]
        piece[: len(part)] = part
        ranks.barrier()  # a rank that comes 15 s later than another breaks MindSpore's CPU collectives
        total[start : start + PIECE] = add(ms.Tensor(piece)).asnumpy()[: len(part)]
    return total


def peak_memory_gb() -> float:
    """The largest resident size this process has had, in GB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
