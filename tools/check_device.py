"""Tell whether an Ascend (or a GPU) computes what it should: one table, and a report to send back.

    python tools/check_device.py
    mpirun -n 2 python tools/check_device.py --is_parallel True

Versions; every network, the gradient and five updates against this host's CPU, in float32 and float16; flash attention
against plain attention; an overflow; the precision of a convolution; a training step at full size with random weights, its
time and memory, at each level of compilation. Under mpirun or msrun instead: a sum over the ranks.
"""

import json
import platform
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Callable, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

import numpy as np

from gm import console, device, runtime
from gm.config.load import load_config
from gm.config.types import Config
from gm.console import log
from gm.device import PAIRS, Chip
from gm.files import make_writable
from gm.options.parser import option, parse
from gm.parallel.launch import check_launcher, run_command
from gm.parallel.ranks import Ranks
from gm.process import run_in_subprocess
from gm.runtime import Runtime
from tools.device_check import facts

ROOT = Path(__file__).resolve().parent.parent
SMALL = "configs/training/tiny_dreambooth_lora_cpu.yaml"
FULL = "configs/training/sd_xl_base_finetune_dreambooth_lora_910a.yaml"
FLOAT32 = 1e-5  # a convolution's error up to which it was computed in float32


@dataclass(frozen=True)
class Options:
    """What was asked."""

    device_target: str = option(
        lambda: device.device_here(), "what to check", choices=("Ascend", "CPU", "GPU"), shown="what is found here"
    )
    ms_mode: int = option(0, "0 graph mode, 1 PyNative mode", choices=(0, 1))
    config: str = option(str(ROOT / SMALL), "YAML of the small model for the numbers", metavar="YAML", shown="the tiny one")
    full_config: str = option(str(ROOT / FULL), "YAML of the model that is timed", metavar="YAML", shown="SDXL")
    set: tuple[str, ...] = option((), "override one entry of --config; repeatable", repeated=True, metavar="KEY=VALUE")
    pixels: tuple[int, ...] = option((), "sizes that are timed; 0 for none", metavar="N,N", shown="512,1024, on the CPU none")
    steps: int = option(5, "steps that are timed", least=1)
    output: Path = option(Path("check_device.json"), "the report to send back", metavar="FILE")
    is_parallel: bool = option(False, "one of several processes that mpirun or msrun started")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    state: str  # ok, off, failed, or - for what is only told
    what: str


def main(argv: Sequence[str], ranks: Ranks = Ranks()) -> None:
    """The command, on one of the ranks."""
    options = parse(Options, argv, "check_device.py", __doc__.splitlines()[0])
    check_launcher(ranks, options.is_parallel)
    make_writable(("--output", options.output.resolve().parent))
    machine = Runtime(options.device_target, options.ms_mode, "O0")
    if ranks.size > 1:
        rows = [all_reduce(machine, ranks)]
    else:
        rows = check(options, machine)
    if ranks.is_main:
        report = {"rows": [asdict(row) for row in rows], "device": facts.device_account()}
        options.output.write_text(json.dumps(report, indent=1) + "\n")
        print(table(rows))
        log.info("report: %s", options.output)
    if any(row.state == "failed" for row in rows):
        sys.exit(1)


def check(options: Options, machine: Runtime) -> list[Row]:
    """All rows but the one of several ranks."""
    config = load_config(options.config, options.set, training=True)
    chip = run_in_subprocess(found_chip, machine)
    rows = versions(chip, machine)
    rows += numbers(machine, config)
    rows += [convolution(machine, chip)]
    half = replace(machine, amp_level="O2")
    if chip.fuses_attention:
        rows.append(attention(half, config))
    rows.append(overflow(half, config))
    sizes = [pixels for pixels in options.pixels or ((512, 1024) if machine.device != "CPU" else ()) if pixels]
    if sizes:
        full = load_config(options.full_config, (), training=True)
        levels = ("O0", "O1", "O2") if machine.device == "Ascend" else (None,)
        amp = half if machine.device != "CPU" else machine
        rows += [
            step(replace(amp, jit_level=level), full, chip, pixels, options.steps) for pixels in sizes for level in levels
        ]
    return rows


def found_chip(machine: Runtime) -> Chip:
    """The chip, in a process that has started the device and gives it back. UserError where there is none."""
    runtime.start(machine, 0)
    return device.chip()


def versions(chip: Chip, machine: Runtime) -> list[Row]:
    """What is installed, and whether it goes together."""
    import mindspore as ms

    told = f"{chip.name}; MindSpore {ms.__version__}; Python {platform.python_version()}; {platform.machine()}"
    rows = [
        Row("device", "-", told),
        Row("precision", "-", runtime.precision_in_words(replace(machine, amp_level="O2"), chip)),
    ]
    if machine.device == "Ascend":
        cann, driver, wanted = facts.cann_version(), facts.driver_version(), PAIRS.get(ms.__version__)
        pairs = cann is not None and wanted is not None and cann.upper().startswith(wanted.upper())
        state = "ok" if pairs else "off" if cann and wanted else "-"
        rows.append(Row("CANN", state, f"{cann or 'not found'}, driver {driver or 'not found'}; it pairs with CANN {wanted}"))
    return rows


def attempt(name: str, function: Callable[[], list[Row]]) -> list[Row]:
    """The rows, or one that says how it failed."""
    try:
        with console.waiting(f"checking {name}"):
            return function()
    except Exception as error:  # whatever a device does is what is to be reported
        words = str(error).strip().splitlines() or [""]
        return [Row(name, "failed", f"{type(error).__name__}: {words[0][:200]}")]


def judged(value: float, limit: float) -> str:
    return "ok" if value <= limit else "off" if value <= 10 * limit else "failed"


def numbers(machine: Runtime, config: Config) -> list[Row]:
    """Every quantity in float32 and float16 against the CPU's float32."""
    from tools.device_check.numbers import LIMITS, compute, relative_errors

    cpu = Runtime("CPU", machine.mode, "O0")
    reference: dict[str, np.ndarray] = {}

    def against(level: str) -> list[Row]:
        if not reference:
            reference.update(run_in_subprocess(compute, cpu, config))
        errors = relative_errors(reference, run_in_subprocess(compute, replace(machine, amp_level=level), config))
        limits = LIMITS[level]
        return [
            Row(f"{name}, {level}", judged(error, limits[name]), f"error {error:.1e}, at most {limits[name]:.0e}")
            for name, error in errors.items()
        ]

    return [row for level in LIMITS for row in attempt(f"the numbers, {level}", lambda: against(level))]  # noqa: B023


def convolution(machine: Runtime, chip: Chip) -> Row:
    from tools.device_check.numbers import convolution_error

    def found() -> list[Row]:
        error = run_in_subprocess(convolution_error, machine)
        expected = error <= FLOAT32 or chip.only_float16
        words = "float32" if error <= FLOAT32 else "fewer digits than float32 (HF32, TF32 or float16)"
        return [Row("convolution", "ok" if expected else "off", f"computed in {words}, error {error:.1e}")]

    return attempt("convolution", found)[0]


def attention(machine: Runtime, config: Config) -> Row:
    from tools.device_check.numbers import LIMITS, flash_error

    limit = LIMITS["O2"]["UNet"]

    def found() -> list[Row]:
        error = run_in_subprocess(flash_error, machine, config)
        return [Row("flash attention", judged(error, limit), f"differs from plain attention by {error:.1e}")]

    return attempt("flash attention", found)[0]


def overflow(machine: Runtime, config: Config) -> Row:
    from tools.device_check.numbers import skips_overflow

    def found() -> list[Row]:
        skipped = run_in_subprocess(skips_overflow, machine, config)
        words = "an update that overflows is skipped, the next is not" if skipped else "an overflow goes unseen"
        return [Row("overflow", "ok" if skipped else "failed", words)]

    return attempt("overflow", found)[0]


def step(machine: Runtime, config: Config, chip: Chip, pixels: int, steps: int) -> Row:
    """A training step at one size and level of compilation."""
    from tools.device_check.timing import COUNTED, for_chip, measure

    given = for_chip(config, chip, pixels)
    recompute = ", recompute" if given.model.unet.use_recompute else ""
    name = f"step, {pixels} px, {given.model.unet.attention}{recompute}" + (
        f", jit {machine.jit_level}" if machine.jit_level else ""
    )

    def found() -> list[Row]:
        timing = run_in_subprocess(measure, machine, given, pixels, steps)
        counted = COUNTED.get((pixels, given.model.unet.attention, given.model.unet.use_recompute))
        memory = f", {timing.peak_gib:.1f} GiB (counted: {counted or 'not'})" if timing.peak_gib else ""
        words = f"{timing.step:.3f} s, of it {timing.update:.3f} the update{memory}; "
        words += f"compilation {timing.compilation:.0f} s, first step {timing.first_step:.1f} s"
        return [Row(name, "-", words)]

    return attempt(name, found)[0]


def all_reduce(machine: Runtime, ranks: Ranks) -> Row:
    """Every rank gives its number plus one; all must get the sum."""
    runtime.start(machine, 0, ranks=ranks)
    import mindspore as ms

    from gm.parallel.collectives import sum_cell

    ranks.barrier()
    found = sum_cell()(ms.Tensor(np.full(1000, ranks.rank + 1.0, np.float32))).asnumpy()
    expected = ranks.size * (ranks.size + 1) / 2
    right = all(ranks.share(bool((found == expected).all())))
    return Row("sum over ranks", "ok" if right else "failed", f"{ranks.size} ranks under {ranks.launcher}")


def table(rows: Sequence[Row]) -> str:
    """The rows in columns."""
    widths = [max(len(getattr(row, field)) for row in rows) for field in ("name", "state")]
    return "\n".join(f"{row.name:<{widths[0]}}  {row.state:<{widths[1]}}  {row.what}" for row in rows)


def command(argv: Optional[Sequence[str]] = None) -> int:
    runtime.quiet_environment()  # MindSpore is imported from here on
    return run_command(main, argv)


if __name__ == "__main__":
    sys.exit(command())
