"""What recipe options do for the subject: the small model, the same photos and updates, three seeds of each recipe.

    python bench/recipes.py            writes bench/recipes.md and a picture beside it; 40 minutes on 2 cores
    python bench/recipes.py --quick    one seed each, few steps and pictures: shows how it works, writes to --folder only

Trains and evaluates as bench/subject.py does, and measures how far the places of the training photos leak: into pictures of
new places, and into pictures of a prompt that names no place.
"""

import sys
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np
from subject import (
    HELD_OUT,
    PIXELS,
    ROOT,
    UNET,
    Bench,
    Variant,
    draw_subject,
    evaluate,
    options_of,
    over_seeds,
    train,
)

from gm.config.load import load_config
from gm.data.images import read_image
from gm.evaluation import report
from gm.evaluation.fidelity import Figures
from gm.pictures import contact_sheet, save_png
from tools.toy.judge import Judge
from tools.toy.scenes import SUBJECT_PLACES

DATA, LORA = "data.dataset_config.params", "model.params.network_config.params"
BARE = "A photo of a sks dog"


def with_entries(*entries: str, photos: tuple[str, ...] = (), seeds: int = 3) -> Variant:
    """The recipe that says these entries of the YAML differently."""
    return Variant(UNET, True, seeds, tuple(word for entry in entries for word in ("--set", entry)), photos)


CAPTIONS, MASKS = ("--captions", "True"), ("--masks", "True")
MASKED = f"{DATA}.masks.unmasked_weight=0.1"
PRODIGY = ("optim.optimizer_config.target=gm.training.optim.Prodigy", "optim.base_learning_rate=1.0")
OF_PRODIGY = "optim.optimizer_config.params"
AS_SET = ("beta2=0.99", "weight_decay=0.01", "use_bias_correction=True", "safeguard_warmup=True")  # as SDXL recipes set it
RECIPES = {
    "one prompt": with_entries(),
    "captions": with_entries(photos=CAPTIONS),
    "mask": with_entries(MASKED, photos=MASKS),
    "Prodigy, rate 1": with_entries(*PRODIGY),
    "Prodigy as recipes set it": with_entries(*PRODIGY, *(f"{OF_PRODIGY}.{entry}" for entry in AS_SET)),
    "captions and mask": with_entries(MASKED, photos=(*CAPTIONS, *MASKS), seeds=1),
    "DoRA": with_entries(f"{LORA}.lora_kind=dora", seeds=1),
    "linear layers": with_entries(f"{LORA}.lora_targets=linear", seeds=1),
    "EMA": with_entries("optim.ema_decay=0.99", seeds=1),
}


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    bench = options_of(argv, __doc__, "recipes")
    draw_subject(bench.folder / "held_out", "held-out", HELD_OUT)
    draw_subject(bench.folder / "photos", "training", 5)
    loras = {name: [train(bench, variant, seed) for seed in bench.seeds(variant)] for name, variant in RECIPES.items()}
    evaluate(bench, loras, BARE)
    rows = evaluate(bench, loras)
    leaks = leakage(bench, [row for row in rows if row != report.REAL])
    text = page(rows, leaks, bench)
    print(text)
    target = bench.folder if bench.quick else ROOT / "bench"
    (target / "recipes.md").write_text(text, encoding="utf-8")
    save_png(target / "recipes_pictures.png", *examples(bench, leaks))


def pictures(bench: Bench, row: str, bare: bool) -> list[Path]:
    """Those that this row's model made of BARE, or of the subject in new places."""
    found = sorted((bench.folder / "evaluation" / row).glob("*_sks_dog*.png"))
    is_bare = {path: path.stem.rpartition("_")[0].endswith("sks_dog") for path in found}
    return [path for path in found if is_bare[path] == bare]


def leakage(bench: Bench, rows: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Row -> how likely a training place is in its pictures of new places, and in those of BARE."""
    judge, found = Judge.load(ROOT / "checkpoints/judge.safetensors"), {}
    training = [judge.place_of(place) for place in SUBJECT_PLACES]
    for row in rows:
        shown = [[read_image(path) for path in pictures(bench, row, bare)] for bare in (False, True)]
        found[row] = tuple(float(judge.place_probabilities(of)[:, training].sum(1).mean()) for of in shown)
    return found


def page(rows: Mapping[str, Figures], leaks: Mapping[str, tuple[float, float]], bench: Bench) -> str:
    """bench/recipes.md."""
    means, spread = over_seeds(rows)
    lines = []
    for name in (report.BASE, *RECIPES):
        mine = np.array([leak for row, leak in leaks.items() if row.partition(", seed ")[0] == name]).mean(0)
        figures, (low, high) = means[name], spread[name]["subject"]
        cells = f"{figures.subject:.3f} ({low:.3f}-{high:.3f}) | {figures.prompt:.3f} | {figures.pres:.3f}"
        lines.append(f"| {name} | {cells} | {mine[0]:.3f} | {mine[1]:.3f} |")
    steps = 20 if bench.quick else load_config(str(UNET)).data.total_step
    table = "\n".join(lines)
    return f"""# What recipe options do at a small scale

Written by `python bench/recipes.py`{" --quick" if bench.quick else ""}. The small model, {PIXELS} x {PIXELS} pixels, {steps} updates, on a
CPU: the five photos and the evaluation of [the subject at a small scale](subject.md). Recipes differ from "one prompt" only by
what they are called; tuned is the rate of AdamW, 2e-3. "Prodigy, rate 1" has prodigyopt's defaults, "as recipes set it" also
beta2 0.99, weight decay 0.01, bias correction and safeguard_warmup. Captions name the place of each photo; masks show the subject. Three seeds of training each, one of the
last four; means, with the lowest and highest subject fidelity.

"New places": how likely, for the judge, a place of the training photos is in pictures whose prompts ask for other places. "No
place": the same in pictures of "{BARE}"; half of the world's places are training places. What the other figures are:
[Evaluation](../docs/evaluation.md).

| | subject fidelity | prompt fidelity | PRES (lower is better) | leakage, new places | leakage, no place |
|---|---|---|---|---|---|
{table}

![pictures of "{BARE}": a row each](recipes_pictures.png)
"""


def examples(bench: Bench, leaks: Mapping[str, tuple[float, float]]) -> tuple:
    """A contact sheet, pictures of BARE, a row for the base model and the first seed of each recipe; and its text."""
    shown = [report.BASE, *(f"{name}, seed 1" for name in RECIPES)]
    rows = [[read_image(path) for path in pictures(bench, row, True)[:8]] for row in shown]
    labels = [f"{row}: leakage {leaks[row][1]:.2f}" for row in shown]
    return contact_sheet(rows, labels, PIXELS), {"rows": "\n".join(labels)}


if __name__ == "__main__":
    sys.exit(main())
