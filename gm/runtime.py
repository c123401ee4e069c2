"""The only file that knows the platform: device, mode, precision, ranks. Everything Ascend-only stands here.

Lines for Ascend are written against the documented MindSpore 2.7 API; not run on Ascend.
"""

import os
from dataclasses import dataclass
from typing import Optional

from gm.console import waiting
from gm.errors import UserError
from gm.parallel.collectives import open_collectives
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
        if self.device == "CPU" and self.mode == PYNATIVE:
            ms.runtime.launch_blocking()  # else its threads wait for one another in loops: ten times as slow on 2 cores, 2.7.2


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
    with waiting("starting MindSpore"):
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
            open_collectives(ranks)
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


def peak_memory_gb() -> float:
    """The largest resident size this process has had, in GB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
