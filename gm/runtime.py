"""How this process computes: device, mode, precision, memory; and joining the other ranks. What the device is: device.py."""

import os
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Optional, Sequence

from gm import device
from gm.config.types import ModelConfig
from gm.console import log, waiting
from gm.errors import UserError
from gm.parallel.collectives import open_collectives
from gm.parallel.ranks import Ranks

GRAPH, PYNATIVE = 0, 1
ATTENTION = "model.params.network_config.params.spatial_transformer_attn_type"


@dataclass(frozen=True)
class Runtime:
    """Where and how to compute; picklable."""

    device: str  # "Ascend", "GPU" or "CPU"
    mode: int  # 0 graph, 1 PyNative
    amp_level: str  # "O0" float32, "O2" float16 with float32 norms, softmax and LoRA matrices
    device_id: int = 0  # which of this host's devices
    jit_level: Optional[str] = None  # "O0", "O1" or "O2" of MindSpore's compilation; None: its own choice for the chip
    max_memory: Optional[str] = None  # of the device, e.g. "58GB"

    @property
    def dtype(self):
        """The compute type of the UNet and the text encoders; the VAE is always float32."""
        import mindspore as ms

        return ms.float16 if self.amp_level == "O2" else ms.float32

    def enter(self) -> None:
        """Make this process compute like this; once, before anything is built."""
        quiet_environment()
        import mindspore as ms

        ms.set_device(self.device, self.device_id if self.device != "CPU" else 0)
        ms.set_context(mode=self.mode)
        if self.jit_level:
            ms.set_context(jit_config={"jit_level": self.jit_level})
        if self.max_memory:
            ms.runtime.set_memory(max_size=self.max_memory)
        device.switch_precision(device.chip())
        if self.device == "CPU" and self.mode == PYNATIVE:
            ms.runtime.launch_blocking()  # else its threads wait for one another in loops: ten times as slow on 2 cores, 2.7.2

    def beside(self) -> "Runtime":
        """The same for a process that computes on the device beside this one: both together keep to `max_memory`."""
        return replace(self, max_memory=device.free_share(self.max_memory)) if self.max_memory else self


CPU = Runtime("CPU", GRAPH, "O0")


def full_precision(machine: Runtime) -> Runtime:
    """Where the same is computed in float32: there, or where the chip has only float16 on the host's CPU. `machine` itself,
    where it computes in float32 already. Asked after `start` or `enter`."""
    if machine.device != "CPU" and device.chip().only_float16:
        return replace(CPU, mode=machine.mode)
    return replace(machine, amp_level="O0")


def composes_kernels() -> bool:
    """Whether layers whose stock kernel is slow should be composed of other operators: on the CPU, not where MindSpore
    has fused kernels. Asked while a network is built, after `start` or `enter`."""
    import mindspore as ms

    return ms.get_context("device_target") == "CPU"


def quiet_environment() -> None:
    """Keep MindSpore's own log below errors and its files out of the user's folder, and its CPU convolutions fast; call before
    importing it."""
    os.environ.setdefault("GLOG_v", "3")
    os.environ.setdefault("ASCEND_GLOBAL_LOG_LEVEL", "3")
    os.environ.setdefault("ASCEND_SLOG_PRINT_TO_STDOUT", "0")
    if tuple(int(number) for number in version("mindspore").split(".")[:2]) >= (2, 9):
        # oneDNN 3.10 convolves plain layouts with its reference kernel where it may use AVX-512: 640 channels at 32 x 32 took
        # 9 s instead of 0.08 s (2.10.0)
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def start(
    wanted: Runtime,
    seed: int,
    models: Sequence[ModelConfig] = (),
    ranks: Ranks = Ranks(),
    master_addr: Optional[str] = None,
    join_timeout: int = 50,
) -> Runtime:
    """Choose the device, and join the other ranks in MindSpore's collectives if there are any.

    Raises UserError, the same on every rank, when the device is not there, cannot compute one of `models`, or the ranks
    cannot reach each other.
    """
    quiet_environment()
    machine = replace(wanted, device_id=ranks.local_rank)
    with waiting("starting MindSpore"):
        if ranks.size > 1:
            with ranks.agreeing():
                ranks.open_cluster(master_addr, join_timeout)  # into the environment, which MindSpore reads when imported
        import mindspore as ms

        with ranks.agreeing():
            if machine.device != "CPU":
                device.require(machine.device, ranks.local_rank)
        machine.enter()
        ms.set_seed(seed % 2**32)  # takes no more; what this project draws has its own generators, which take all of it
        with ranks.agreeing():
            for model in models:
                check_attention(machine, device.chip(), model)
        if ranks.size > 1:
            open_collectives(ranks)
    if machine.device == "Ascend":
        log.info(precision_in_words(machine, device.chip()))
    return machine


def check_attention(machine: Runtime, chip: device.Chip, model: ModelConfig) -> None:
    """UserError when the model wants flash attention and the chip, or the precision, has none."""
    if model.unet.attention != "flash-attention":
        return
    why = f"there is none on {chip.name}" if not chip.fuses_attention else ""
    why = why or ("it computes in float16, but --ms_amp_level O0 asks for float32" if machine.amp_level == "O0" else "")
    if why:
        raise UserError(
            f"the YAML asks for flash-attention, a kernel of Ascend 910B and later, but {why}: give --set {ATTENTION}=vanilla, "
            "and for 1024 px also --set model.params.network_config.params.use_recompute=True"
        )


def precision_in_words(machine: Runtime, chip: device.Chip) -> str:
    """What is computed in what, in one line."""
    networks = "float16" if machine.amp_level == "O2" else "float32"
    if chip.only_float16:
        return (
            f"{chip.name} (910A) computes all products and convolutions in float16, the VAE's too: give --vae "
            f"{device.FLOAT16_VAE}, unless the base's is one"
        )
    return f"{chip.name}: UNet and text encoders in {networks}, VAE in float32"


def peak_memory_gb() -> float:
    """The largest resident size this process has had on the host, in GB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
