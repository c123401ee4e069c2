"""Bring a LoRA to another rank, keeping as much of its update as that rank can hold.

The singular values of scale * B A come from the small core between the QR factors of the two matrices, so that the
product is never formed. A rank above the LoRA's own adds rows that begin like a fresh LoRA's: the update stays the same. Of a
DoRA the matrices are resized and the magnitudes stay.
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
from gm.checkpoint.blocks import by_block
from gm.checkpoint.lora_export import write_lora
from gm.checkpoint.lora_files import LoraArrays, LoraFile
from gm.checkpoint.lora_rules import magnitude_name
from gm.checkpoint.single_file import new_output
from gm.checkpoint.svd import factors, product_svd, rank_for
from gm.console import bar, log, table
from gm.errors import UserError
from gm.models.adapters import initial_value
from gm.options.parser import option, parse
from tools.lora_arguments import GivenLora, WrittenLora, base_reader, layout_of, open_given


@dataclass(frozen=True)
class Options(WrittenLora, GivenLora):
    """What was asked."""

    rank: Optional[int] = option(
        None, "the new rank; with --keep the largest that a module may have", least=1, group="what is written"
    )
    keep: Optional[float] = option(
        None,
        "share of each module's energy to keep, e.g. 0.95: the smallest rank that does",
        above=0,
        most=1,
        group="what is written",
    )


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "resize_lora.py", __doc__.splitlines()[0])
    layout = layout_of(options)
    if options.rank is None and options.keep is None:
        raise UserError("neither --rank nor --keep was given: say the new rank, or the share of the energy to keep")
    file, model = open_given(options)
    with file:
        arrays, energies = resized(file, options.rank, options.keep, options.alpha)
        magnitudes = {m: (file.read(magnitude_name("native", m)), p.form) for m, p in file.modules.items() if p.form}
    output = new_output(options.output)
    lora = LoraArrays(output, arrays, file.metadata, magnitudes)
    write_lora(lora, output, layout, options.dtype, model=model, read_base=base_reader(options))
    print(report(arrays, energies))
    log.info("%s: %d modules in the %s layout", output, len(arrays), layout)


def resized(
    file: LoraFile, rank: Optional[int], keep: Optional[float], alpha: Optional[float]
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, tuple[float, float]]]:
    """module -> the new (B, A), and module -> (energy of its update, energy kept)."""
    arrays, energies = {}, {}
    for module in bar(file.modules, "resizing", unit="module"):
        b, a = file.factors(module)
        svd = product_svd(b * np.float32(file.scale(module, alpha)), a)
        new = rank if keep is None else min(rank_for(svd[1], keep), rank or len(svd[1]))
        b, a = factors(svd, new, initial_value(f"{module}.lora_A.weight", (new, a.shape[1]), 0))
        arrays[module] = file.modules[module].in_shape(b, a)
        energies[module] = float(np.sum(svd[1] ** 2)), float(np.sum(svd[1][:new] ** 2))
    return arrays, energies


def report(arrays: dict[str, tuple[np.ndarray, np.ndarray]], energies: dict[str, tuple[float, float]]) -> str:
    """The energy kept, by block and in all, as a table."""
    rows = []
    for block, modules in {**by_block(arrays), ("all", ""): list(arrays)}.items():
        energy, kept = (sum(energies[module][i] for module in modules) for i in (0, 1))
        ranks = sorted({len(arrays[module][1]) for module in modules})
        span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
        rows.append((*block, len(modules), span, f"{kept / energy:.2%}" if energy else "-"))
    return table(("network", "block", "modules", "rank", "energy kept"), rows)


if __name__ == "__main__":
    sys.exit(console.run_command(main))
