"""Tell what a weight file holds: for LoRA the layout, ranks, alpha, targets and the size of the update in every block;
for base weights the networks, types and numbers; and the metadata of either.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

import numpy as np

from gm import console
from gm.checkpoint import lora_rules
from gm.checkpoint.blocks import NETWORKS, by_block, network_of
from gm.checkpoint.folder import open_source, open_vae
from gm.checkpoint.io import TensorFile
from gm.checkpoint.lora_export import targets
from gm.checkpoint.lora_files import LoraFile, lora_in_base, open_lora
from gm.checkpoint.svd import product_norm
from gm.checkpoint.weights import BaseWeights, examples
from gm.console import bar, log, table
from gm.errors import UserError
from gm.options.parser import REQUIRED, option, parse
from gm.pictures import plot_bars
from tools.lora_arguments import OfAModel, model_of

FORMS = {"rows": "lengths of rows", "columns": "lengths of columns", "base": "lengths of rows over the base's, for ComfyUI"}
LAYOUT_WORDS = {"native": "native, of this suite", **lora_rules.LAYOUTS}


@dataclass(frozen=True)
class Options(OfAModel):
    """What was asked."""

    input: Path = option(
        REQUIRED, "a LoRA, base weights, a VAE, or diffusers' folder", positional=True, metavar="PATH", group="what is read"
    )
    plot: Optional[Path] = option(
        None, "draw the size of a LoRA's update in every block; a new file", metavar="PNG", group="what is written"
    )


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse(Options, argv, "inspect_weights.py", "Tell what a weight file holds.")
    plot = options.plot
    if plot and (plot.suffix != ".png" or plot.exists()):
        raise UserError(f"--plot {plot} {'exists already: give another name' if plot.exists() else 'must end in .png'}")
    file, lora, base = opened(options.input, options)
    if plot and lora is None:
        raise UserError(f"--plot draws the update of a LoRA, but {file.path} holds none: leave it away")
    told = [f"{file.path}: {kind(file, lora, base)}"]
    if base is not None:
        told.append(about_base(base))
    if lora is not None:
        norms = update_norms(lora)
        told.append(about_lora(lora, norms))
        if plot:
            plot_bars(block_norms(norms), "|alpha / rank * B A|", f"{file.path.name}: size of the update in each block", plot)
            log.info("%s written", plot)
    if file.metadata:
        told.append(table(("metadata", ""), [(key, _short(text)) for key, text in sorted(file.metadata.items())]))
    print("\n\n".join(told))


def opened(path: Path, options: Options) -> tuple[TensorFile, Optional[LoraFile], Optional[BaseWeights]]:
    """The file, and what it holds as LoRA and as base weights. UserError when it holds neither."""
    file = open_source(path)
    others = [name for name in file.names if lora_rules.parse(name) is None]
    if len(others) < len(file.names) and not any(name.startswith("state.") or network_of(name) != "other" for name in others):
        return file, open_lora(path, model_of(options)), None  # or says what kind of LoRA it is that is not supported
    base = BaseWeights(file)
    if is_state(base) or any(network_of(name) != "other" for name in base.shapes):
        return file, lora_in_base(base) if base.lora_names() else None, base
    if any(name.startswith(("encoder.", "decoder.")) for name in file.names):
        return file, None, BaseWeights(open_vae(path))
    raise UserError(
        f"{path} holds {len(file.names)} tensors of a kind unknown here ({examples(file.names)}): give a LoRA, SDXL's "
        "weights or a VAE"
    )


def is_state(base: BaseWeights) -> bool:
    """Whether it is what training writes for --resume."""
    return any(name.startswith("state.") for name in base.shapes)


def kind(file: TensorFile, lora: Optional[LoraFile], base: Optional[BaseWeights]) -> str:
    """In a few words."""
    form = {"ckpt": "MindSpore .ckpt", "safetensors": ".safetensors", "assembled": "diffusers' folder"}[file.kind]
    if base is None:
        return f"LoRA ({LAYOUT_WORDS[lora.layout]}), {form}"
    if is_state(base):
        return f"training state for --resume, {form}"
    there = {network_of(name) for name in base.shapes}
    lacking = [network for network in NETWORKS.values() if network not in there]
    what = f"{', '.join(n for n in NETWORKS.values() if n in there)} alone" if lacking else "whole base weights"
    return f"{what}{' with LoRA' if lora else ''}, {form}"


def about_base(base: BaseWeights) -> str:
    """The networks with their tensors, numbers and types, as a table."""
    rows, files = [], [(network_of(native), *where) for native, *where in base.stored]
    for network in [*NETWORKS.values(), "other", "all"]:
        mine = [(file, name) for title, file, name in files if network in (title, "all")]
        if mine:
            types = Counter(file.dtype(name) for file, name in mine)
            numbers = sum(int(np.prod(file.shape(name), dtype=np.int64)) for file, name in mine)
            words = ", ".join(f"{dtype} ({count})" if len(types) > 1 else dtype for dtype, count in types.most_common())
            rows.append((network, words, len(mine), f"{numbers:,}"))
    return table(("network", "type", "tensors", "numbers"), rows)


def update_norms(lora: LoraFile) -> dict[str, float]:
    """module -> Frobenius norm of alpha / rank * B A, which of a DoRA is the change before it is scaled."""
    norms = {}
    for module in bar(lora.modules, "reading", unit="module", leave=False):
        norms[module] = abs(lora.scale(module)) * product_norm(*lora.factors(module))
    bad = [module for module, norm in norms.items() if not np.isfinite(norm)]
    if bad:
        log.warning("%d modules hold numbers that are not finite (%s): the file is damaged", len(bad), examples(bad))
    return norms


def block_norms(norms: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """(network, block) -> root of the sum of squares over its modules."""
    return {block: _root(norms, modules) for block, modules in by_block(norms).items()}


def about_lora(lora: LoraFile, norms: Mapping[str, float]) -> str:
    """Ranks, alphas and targets, then every block with the size of its update, as a table."""
    silent = all(pair.alpha is None for pair in lora.modules.values())
    alphas = Counter(lora.alpha(module) for module in lora.modules)
    facts = [
        ("rank", _counted(Counter(pair.rank for pair in lora.modules.values()))),
        ("alpha", "not said, taken to be the rank" if silent else _counted(alphas)),
        ("targets", ", ".join(targets(lora))),
    ]
    forms = sorted({pair.form for pair in lora.modules.values() if pair.form})
    if forms:
        facts.insert(0, ("kind", f"DoRA ({', '.join(FORMS[form] for form in forms)})"))
    rows = []
    for block, modules in {**by_block(norms), ("all", ""): list(norms)}.items():
        ranks = sorted({lora.modules[module].rank for module in modules})
        span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
        rows.append((*block, len(modules), span, f"{_root(norms, modules):.4g}", f"{max(norms[m] for m in modules):.4g}"))
    header = ("network", "block", "modules", "rank", "|update|", "largest module")
    return table(("", ""), facts).lstrip("\n") + "\n\n" + table(header, rows)


def _root(norms: Mapping[str, float], modules: Sequence[str]) -> float:
    return float(np.sqrt(sum(norms[module] ** 2 for module in modules)))


def _counted(values: Counter) -> str:
    """The value, or each with the number of modules that have it."""
    if len(values) == 1:
        return f"{next(iter(values)):g}"
    return ", ".join(f"{value:g} ({count} modules)" for value, count in sorted(values.items()))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:117] + "..."


if __name__ == "__main__":
    sys.exit(console.run_command(main))
