"""What computing takes of memory at least, and whether that is there: asked before anything is built.

Counted from the shapes of the networks: the weights, and what is alive at once where most is, in the attention and at the
picture's own resolution. Norms, copies and the memory pool come on top, so that a run takes up to twice as much (bench/memory.md;
tests/test_memory_estimate.py holds the estimate against measured figures). So what is refused cannot fit, and what is not
refused need not.

rows: of a batch   sides in pixels   all results in bytes
"""

import os
from pathlib import Path
from typing import Iterator, Mapping, NamedTuple, Optional

from gm import device
from gm.config.types import ModelConfig, SampleSettings, UNetConfig, VAEConfig
from gm.errors import UserError
from gm.runtime import Runtime

FLOAT = 4  # bytes
SCORES = 2 * FLOAT  # of an entry of the attention: the scores and, in float32, their softmax
PIXELS = 8  # of the picture in one of the latent, each side
GRADIENT = 4 * FLOAT  # of an entry in a backward pass: also their gradients
ROWS = 16  # tensors of a transformer block's width that a backward pass needs of it, at least
BLOCK = 10  # tensors of a residual block's width that it needs
ALIVE = 4  # tensors of a block's width at once without gradients
MARGIN = 3  # what a call without gradients took at most of what is sure (1024 pixels on an H100: 10.4 GB of 3.5)


class Level(NamedTuple):
    """One resolution of the UNet."""

    points: int  # pixels
    width: int  # channels
    heads: int
    down: int  # blocks on the way down, as many and one more on the way up
    depth: int  # transformer blocks of each; 0 where there are none


def levels(config: UNetConfig, height: int, width: int) -> Iterator[Level]:
    """From the picture's own resolution down."""
    for number, mult in enumerate(config.channel_mult):
        side = PIXELS * 2**number
        channels = mult * config.model_channels
        depth = config.transformer_depth[number] if 2**number in config.attention_resolutions else 0
        heads = max(1, channels // config.num_head_channels)
        yield Level((height // side) * (width // side), channels, heads, config.num_res_blocks, depth)


def unet_call(config: UNetConfig, height: int, width: int, rows: int, number: int) -> int:
    """One call of the UNet without gradients; `number`: bytes of a number. What is kept for the way up, and the largest of
    what one block has at once."""
    kept = most = 0
    found = list(levels(config, height, width))
    for level in found:
        kept += (level.down + 1) * level.points * level.width * number
        most = max(most, ALIVE * level.points * level.width * number)
        if (level.depth or level is found[-1]) and config.attention == "vanilla":
            most = max(most, level.heads * level.points**2 * SCORES)
    return rows * (kept + most)


def decoding(config: VAEConfig, height: int, width: int) -> int:
    """Decoding, or encoding, one picture, in float32: its attention over all points with one head, or the widest tensors of
    the picture's own resolution, three of which are there at once."""
    points = (height // PIXELS) * (width // PIXELS)
    widest = config.ch * (config.ch_mult[1] if len(config.ch_mult) > 1 else config.ch_mult[0])
    return max(points**2 * SCORES, 3 * widest * height * width * FLOAT)


def training_call(config: UNetConfig, height: int, width: int, rows: int, number: int) -> int:
    """A forward and backward pass: what every block keeps, or with recompute its input and what one block has at once."""
    kept = most = 0
    found = list(levels(config, height, width))
    for level in found:
        tensor = level.points * level.width * number
        scores = level.heads * level.points**2 * (FLOAT if number == FLOAT else FLOAT + number)
        vanilla = config.attention == "vanilla"
        block = ROWS * tensor + (scores if vanilla else 0)
        blocks, transformers = 2 * level.down + 1, level.depth * (2 * level.down + 1)
        if level is found[-1]:  # the middle
            blocks, transformers = blocks + 2, transformers + config.transformer_depth[-1]
        if config.use_recompute:
            kept += (blocks + transformers) * tensor
            most = max(most, 2 * BLOCK * tensor)
            if transformers:
                most = max(most, 2 * ROWS * tensor + (level.heads * level.points**2 * GRADIENT if vanilla else 0))
        else:
            kept += blocks * BLOCK * tensor + transformers * block
    return rows * (kept + most)


def weights(shapes: Mapping[str, tuple], prefix: str, number: int) -> int:
    """Of the network whose parameters begin with `prefix`."""
    return sum(number * _product(shape) for name, shape in shapes.items() if name.startswith(prefix))


def _product(shape: tuple) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def require_for_sampling(
    model: ModelConfig, settings: SampleSettings, rows: int, machine: Runtime, unloaded: int, what: str = "pictures"
) -> None:
    """UserError where sampling `rows` pictures at once cannot fit. `unloaded`: bytes of weights that are yet to be loaded."""
    number = 2 if machine.amp_level == "O2" else FLOAT
    guided = 1 if settings.guider == "IdentityGuider" else 2
    least = unloaded + max(
        unet_call(model.unet, settings.height, settings.width, guided * rows, number),
        decoding(model.vae, settings.height, settings.width),
    )
    at_once = f", {rows} at once" if rows > 1 else ""
    _require(least, machine, f"{what} of {settings.width} x {settings.height} pixels{at_once},", "give smaller ones")


def rows_that_fit(model: ModelConfig, settings: SampleSettings, machine: Runtime, weights: int, most: int) -> int:
    """How many pictures, up to `most`, can surely be sampled at once; 1 where the memory is not known. `weights`: bytes of UNet
    and VAE."""
    there = available(machine)
    if there is None:
        return 1
    number, guided = 2 if machine.amp_level == "O2" else FLOAT, 1 if settings.guider == "IdentityGuider" else 2
    each = MARGIN * unet_call(model.unet, settings.height, settings.width, guided, number)
    return max(1, min(most, (there - weights) // each))


def require_for_training(model: ModelConfig, height: int, width: int, rows: int, machine: Runtime, loaded: int) -> None:
    """UserError where an update of `rows` samples of this size cannot fit; `loaded`: bytes of weights."""
    number = 2 if machine.amp_level == "O2" else FLOAT
    least = loaded + training_call(model.unet, height, width, rows, number)
    _require(
        least,
        machine,
        f"training on {rows} samples of {width} x {height} pixels at once",
        "give a smaller target_size or per_batch_size, or use_recompute",
    )


def _require(least: int, machine: Runtime, what: str, instead: str) -> None:
    there = available(machine)
    if there is not None and least > there:
        where = "this host has" if machine.device == "CPU" else f"the {machine.device} has"
        raise UserError(f"{what} take at least {_gb(least)} of memory, but {where} {_gb(there)}: {instead}")


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count < 1e11 else f"{count / 1e9:,.0f} GB"


def available(machine: Runtime) -> Optional[int]:
    """Bytes that computing there may take; None where that is not known."""
    if machine.max_memory:
        return int(float(machine.max_memory[:-2]) * 2**30)
    return host_available() if machine.device == "CPU" else device.total_memory()


def host_available(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Optional[int]:
    """Bytes of this host that are free, or can be made so, within the limits of the control groups this process is in."""
    found = [_of_meminfo(proc / "meminfo"), *_of_groups(proc / "self" / "cgroup", cgroups)]
    known = [number for number in found if number is not None]
    return min(known) if known else None


def _of_meminfo(path: Path) -> Optional[int]:
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        return sum(int(lines[key].split()[0]) * 1024 for key in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _of_groups(path: Path, root: Path) -> Iterator[Optional[int]]:
    """What each group above this process leaves, in both versions of them; a container's own group is the root."""
    try:
        groups = [line.split(":", 2) for line in path.read_text().splitlines()]
    except OSError:
        groups = []
    for _, controllers, name in (group for group in groups if len(group) == 3):
        if controllers == "":
            yield from (_left(folder, "memory.max", "memory.current") for folder in _upwards(root, name))
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            yield from (_left(folder, *files) for folder in _upwards(root / "memory", name))


def _upwards(root: Path, name: str) -> Iterator[Path]:
    folder = Path(os.path.normpath(f"{root}/{name}"))
    while folder != root and root in folder.parents:
        yield folder
        folder = folder.parent
    yield root


def _left(folder: Path, limit: str, used: str) -> Optional[int]:
    """The limit less what is used and cannot be given back; None without a limit."""
    try:
        most, now = int((folder / limit).read_text()), int((folder / used).read_text())
    except (OSError, ValueError):  # "max", or no such file
        return None
    try:
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        kept = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    except (OSError, ValueError):
        kept = 0
    return max(most - now + kept, 0)
