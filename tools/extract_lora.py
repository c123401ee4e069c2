"""Make a LoRA of a chosen rank from the difference of two checkpoints: what a whole fine-tuning changed.

Each weight's difference is cut to its first singular values, which is the nearest there is of that rank.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

import numpy as np

from gm import console
from gm.checkpoint.blocks import by_block, network_of
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import LoraArrays
from gm.checkpoint.lora_rules import lora_names
from gm.checkpoint.single_file import new_output
from gm.checkpoint.svd import factors, truncated_svd
from gm.checkpoint.weights import BaseWeights, differences, open_base
from gm.console import bar, log, table
from gm.errors import UserError
from gm.models.adapters import ATTENTION, initial_value
from gm.options.parser import REQUIRED, option, parse
from tools.lora_arguments import OfAModel, WrittenLora, layout_of, model_of

TARGETS = {
    "attention": lambda names: [module for module in names.modules if module.endswith(ATTENTION)],
    "linear": lambda names: names.modules,
    "all": lambda names: names.all,
}


@dataclass(frozen=True)
class Options(WrittenLora, OfAModel):
    """What was asked."""

    base: str = option(
        REQUIRED,
        "the weights from before: .safetensors, .ckpt or diffusers' folder",
        metavar="PATH",
        group="what is read",
    )
    tuned: str = option(REQUIRED, "the weights from after, of any kind", metavar="PATH", group="what is read")
    rank: int = option(16, "rank of the LoRA", least=1, group="what is written")
    targets: str = option(
        "attention",
        "attention: its projections; linear: every linear layer of the transformers; all: the residual blocks' layers as well",
        choices=TARGETS,
        group="what is written",
    )


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "extract_lora.py", __doc__.splitlines()[0])
    layout, model = layout_of(options), model_of(options)
    base, tuned = open_base(options.base), open_base(options.tuned)
    for file in (base, tuned):
        if file.lora_names() or not file.shapes:
            raise UserError(f"{file.file.path} holds LoRA matrices: give two checkpoints of base weights")
    words = differences(tuned.shapes, base.shapes)
    if words:
        raise UserError(f"--tuned {tuned.file.path} is not of the model of --base: tensors {'; '.join(words)}")
    targets = [module for module in TARGETS[options.targets](lora_names(model)) if f"{module}.weight" in base.shapes]
    if not targets:
        raise UserError(f"--base {base.file.path} holds none of the layers that LoRA goes into: give SDXL's weights")
    found = Extraction(base, tuned, targets, options.rank)
    output = new_output(options.output)
    write_lora(LoraArrays(output, found.arrays, {}), output, layout, options.dtype, model=model)
    print(found.report())
    log.info("%s: %d modules of rank %d in the %s layout", output, len(found.arrays), options.rank, layout)


class Extraction:
    """`arrays`: module -> (B, A); and how much of the difference they hold."""

    def __init__(self, base: BaseWeights, tuned: BaseWeights, targets: Sequence[str], rank: int):
        self.arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._energies: dict[str, tuple[float, float]] = {}  # module -> squared norms of the difference and of what is lost
        self._outside = 0.0  # squared norm of the difference in all other weights
        modules = {f"{module}.weight": module for module in targets}
        for name in bar(base.shapes, "comparing", unit="tensor"):
            difference = tuned.read(name).astype(np.float32) - base.read(name).astype(np.float32)
            energy = _energy(difference)
            if not np.isfinite(energy):
                raise UserError(f"the difference in {name} is not finite: one of the two files is damaged")
            if name not in modules:
                self._outside += energy
                continue
            module, shape, difference = modules[name], difference.shape, difference.reshape(len(difference), -1)
            fresh = initial_value(f"{module}.lora_A.weight", (rank, difference.shape[1]), 0)
            b, a = factors(truncated_svd(difference, rank), rank, fresh)
            window = tuple(1 for _ in shape[2:])
            self.arrays[module] = b.reshape(*b.shape, *window), a.reshape(rank, *shape[1:])
            self._energies[module] = energy, _energy(difference - b @ a)
        changed = {network_of(module) for module, (energy, _) in self._energies.items() if energy > 0}
        if not changed:
            raise UserError(
                f"{base.file.path} and {tuned.file.path} are the same in all {len(targets)} targets: nothing to extract"
            )
        self.arrays = {module: pair for module, pair in self.arrays.items() if network_of(module) in changed}

    def report(self) -> str:
        """The relative error |D - B A| / |D| by block and in all, as a table."""
        blocks = {**by_block(self.arrays), ("all", ""): list(self.arrays)}
        rows = [(*block, len(modules), *self._errors(modules)) for block, modules in blocks.items()]
        return (
            table(("network", "block", "modules", "difference", "relative error"), rows)
            + f"\n{self._share():.1%} of the whole difference (of squares) is in these modules, the rest in other weights"
        )

    def _errors(self, modules: Sequence[str]) -> tuple[str, str]:
        energy, lost = (sum(self._energies[module][i] for module in modules) for i in (0, 1))
        return f"{energy**0.5:.4g}", f"{(lost / energy) ** 0.5:.4f}" if energy else "-"

    def _share(self) -> float:
        inside = sum(energy for energy, _ in self._energies.values())
        return inside / (inside + self._outside)


def _energy(array: np.ndarray) -> float:
    return float(np.sum(np.square(array, dtype=np.float64)))


if __name__ == "__main__":
    sys.exit(console.run_command(main))
