"""The device: which chip it is and what that can do, what has to be switched for it, and why it is not there.

With runtime.py the only file that knows the platform. Lines for Ascend are written against the documented MindSpore 2.7 API
and its source; not run on Ascend. MindSpore is imported when a function is called.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import Optional

from gm.errors import UserError

ATLAS_A2 = ("ascend910b", "ascend910_93")  # what MindSpore calls 910B (Atlas A2, "910*") and its successor A3
ASCEND_910A = "ascend910"
LARGEST_FLOAT16 = 65504.0
FLOAT16_VAE = "a VAE made for float16, such as madebyollin/sdxl-vae-fp16-fix"
PAIRS = {
    "2.7.0": "8.2.RC1",
    "2.7.1": "8.3.RC1",
    "2.7.1.post1": "8.3.RC1",
    "2.7.2": "8.5.0",
    "2.9.0": "9.0.0",
}  # MindSpore -> CANN; docs/ascend.md has the sources
CANN_PYTHON = ("te", "hccl")  # packages of CANN that MindSpore's Ascend backend imports


@dataclass(frozen=True)
class Chip:
    """What computes. `name`: on Ascend MindSpore's own name of the chip, else "GPU" or "CPU"."""

    name: str

    @property
    def fuses_attention(self) -> bool:
        """Whether `ops.flash_attention_score` runs there (Atlas A2 and later; its documentation)."""
        return self.name in ATLAS_A2

    @property
    def only_float16(self) -> bool:
        """Whether products and convolutions are computed in float16 whatever their type is: the 910A's matrix unit has no
        float32, and MindSpore's default precision mode there is force_fp16."""
        return self.name == ASCEND_910A

    @property
    def saturates(self) -> bool:
        """Whether a float16 overflow becomes +-65504 and not infinite: always on the 910A, elsewhere where it was asked for."""
        wanted = os.environ.get("MS_ASCEND_CHECK_OVERFLOW_MODE") == "SATURATION_MODE"
        return self.only_float16 or (self.name in ATLAS_A2 and wanted)

    @property
    def compiles_on_host(self) -> bool:
        """Whether a graph is compiled without memory of the device, so that another process may compute there meanwhile. The
        graph engine of Ascend takes a graph's memory when it has compiled it."""
        return self.name in ("CPU", "GPU")


def device_here() -> str:
    """Where to compute when nobody says: "Ascend" or "GPU" where a driver has made device files and, for a GPU, CUDA_HOME says
    where CUDA is; else "CPU". Without MindSpore."""
    if os.path.exists("/dev/davinci_manager"):
        return "Ascend"
    return "GPU" if os.path.exists("/dev/nvidiactl") and os.environ.get("CUDA_HOME") else "CPU"


def chip() -> Chip:
    """The chip of the device that was chosen."""
    import mindspore as ms

    target = ms.get_context("device_target")
    return Chip(_context().get_ascend_soc_version() if target == "Ascend" else target)


def _context():
    """What MindSpore's own layers ask for the chip's name and for why a device's part did not load; it has no public name."""
    from mindspore._c_expression import MSContext

    return MSContext.get_instance()


def switch_precision(given: Chip) -> None:
    """Float32 convolutions in float32: by default they are HF32 on the 910B and TF32 on a GPU, where the VAE was wrong by
    1.6e-3 instead of 3e-6 of its largest value (H100)."""
    import mindspore as ms

    if given.name == "GPU":
        ms.device_context.gpu.op_precision.conv_allow_tf32(False)
    elif given.name in ATLAS_A2:
        ms.device_context.ascend.op_precision.conv_allow_hf32(False)


def require(device: str, device_id: int) -> None:
    """Raise UserError unless the installed MindSpore can drive `device` number `device_id` here."""
    import mindspore as ms

    module = {"Ascend": ms.device_context.ascend, "GPU": ms.device_context.gpu}[device]
    try:
        count = module.device_count()
    except (RuntimeError, ValueError, AttributeError, NameError):  # the last: a MindSpore built without the device
        count = 0
    if 0 < count <= device_id:
        raise UserError(
            f"there are {count} {device} devices here, but more processes than that: start at most {count} on this host"
        )
    if count == 0:
        raise UserError(
            f"--device_target {device} was given, but MindSpore {ms.__version__} finds no {device} device here"
            f"{_plugin_error()}: {_remedy(device, ms.__version__)}, or give --device_target CPU"
        )


def _plugin_error() -> str:
    """Why MindSpore could not load the device's part, in its own words; "" when it does not say."""
    reason = " ".join(_context().load_plugin_error().split())
    return f" ({reason[:300]})" if reason else ""


def _remedy(device: str, version: str) -> str:
    if device == "GPU":
        home = "CUDA_HOME is " + (os.environ.get("CUDA_HOME") or "not set")
        return f"it needs an x86_64 host, CUDA 11.6 to 11.8, cuDNN 8 and CUDA_HOME ({home}; docs/gpu.md)"
    missing = [name for name in CANN_PYTHON if importlib.util.find_spec(name) is None]
    cann = f"CANN {PAIRS[version]}" if version in PAIRS else "the CANN version that pairs with it"
    python = f"; of CANN's Python packages {' and '.join(missing)} cannot be imported" if missing else ""
    return f"install driver, firmware and {cann} and source its set_env.sh{python} (docs/ascend.md)"


def peak_memory_gb() -> Optional[float]:
    """The most memory of the device that was in use at once, in GB; None on the CPU, where it is the host's."""
    import mindspore as ms

    if ms.get_context("device_target") == "CPU":
        return None
    return ms.runtime.max_memory_allocated() / 1e9


def free_share(limit: str) -> str:
    """What this process leaves of `limit` ("58GB") to a process beside it, as such a text."""
    import mindspore as ms

    return f"{max(float(limit[:-2]) - ms.runtime.memory_reserved() / 2**30, 1.0):.1f}GB"


def total_memory() -> Optional[int]:
    """Bytes of the device's memory; None where MindSpore does not say. Asked after `Runtime.enter`."""
    import mindspore as ms

    try:
        found = ms.hal.get_device_properties(ms.get_context("device_id"))
        return int(found.total_memory) or None
    except (RuntimeError, ValueError, TypeError, AttributeError):
        return None
