"""The only file that knows the platform: device, mode, precision, ranks. Everything Ascend-only stands here.

Lines for Ascend are written against the documented MindSpore 2.7 API; not run on Ascend.
"""

import os
from dataclasses import dataclass, replace
from typing import Optional

from gm.errors import UserError

GRAPH, PYNATIVE = 0, 1


@dataclass(frozen=True)
class Runtime:
    device: str  # "Ascend", "GPU" or "CPU"
    mode: int  # 0 graph, 1 PyNative
    amp_level: str  # "O0" float32, "O2" float16 with float32 norms, softmax and LoRA matrices
    rank: int = 0
    ranks: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process prints, draws and writes."""
        return self.rank == 0

    @property
    def dtype(self):
        """The compute type of the UNet and the text encoders; the VAE is always float32."""
        import mindspore as ms

        return ms.float16 if self.amp_level == "O2" else ms.float32

    def enter(self) -> None:
        """Make this process compute on the device, in the mode; for one that a process with this Runtime has started."""
        quiet_environment()
        import mindspore as ms

        ms.set_device(self.device)
        ms.set_context(mode=self.mode)


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
    is_parallel: bool = False,
    max_device_memory: Optional[str] = None,
) -> Runtime:
    """Choose device and mode, and join the other ranks if there are any.

    Raises UserError when the device is not there, or is_parallel is set without a launcher.
    """
    quiet_environment()
    import mindspore as ms

    if device != "CPU":
        _require(device)
    machine = Runtime(device, mode, amp_level or ("O0" if device == "CPU" else "O2"))
    machine.enter()
    ms.set_seed(seed)
    if device == "Ascend" and max_device_memory:
        ms.runtime.set_memory(max_size=max_device_memory)
    if not is_parallel:
        return machine
    rank, ranks = _join()
    return replace(machine, rank=rank, ranks=ranks)


def _require(device: str) -> None:
    """Raise UserError unless the installed MindSpore can drive `device` here."""
    import mindspore as ms

    wanted = {
        "Ascend": "the CANN toolkit and driver that pair with it (CANN 8.3.RC1 for MindSpore 2.7.1)",
        "GPU": "a MindSpore build for GPUs",
    }[device]
    try:
        there = ms.hal.is_available(device) and ms.hal.device_count(device) > 0
    except (ValueError, RuntimeError):
        there = False
    if not there:
        raise UserError(
            f"--device_target {device} was given, but MindSpore {ms.__version__} finds no {device} device here: "
            f"install {wanted} and load its environment, or give --device_target CPU"
        )


def _join() -> tuple[int, int]:
    """Rank and number of ranks, after joining: HCCL on Ascend (mpirun or msrun), MindSpore's own collectives on CPU."""
    if not ("MS_ROLE" in os.environ or "OMPI_COMM_WORLD_SIZE" in os.environ or "RANK_TABLE_FILE" in os.environ):
        raise UserError("--is_parallel True needs a launcher: put mpirun -n N or msrun --worker_num=N before the command")
    import mindspore as ms
    from mindspore.communication import get_group_size, get_rank, init

    init()
    rank, ranks = get_rank(), get_group_size()
    ms.set_auto_parallel_context(
        parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=False, device_num=ranks, global_rank=rank
    )
    return rank, ranks


def peak_memory_gb() -> float:
    """The largest resident size this process has had, in GB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
