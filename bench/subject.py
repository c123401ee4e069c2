"""Prove the whole thing at a small scale: teach the small model a subject, with and without prior preservation, evaluate.

    python bench/subject.py            writes bench/subject.md and two pictures beside it
    python bench/subject.py --quick    one seed each, few steps and pictures: shows how it works, writes to --folder only

Draws the photos of the drawn world's subject, trains through train_dreambooth.py (LoRA in the UNet with and without prior
preservation, three seeds each; LoRA in the text encoders as well, one seed) and compares through tools/evaluate.py. What an
earlier run has finished in the same way is not done again.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gm.config.load import load_config
from gm.data.images import read_image
from gm.evaluation import report
from gm.evaluation.fidelity import Figures, mean, way
from gm.pictures import contact_sheet, save_png

UNET = ROOT / "configs/training/small_dreambooth_lora_cpu.yaml"
TEXT = ROOT / "configs/training/small_dreambooth_textencoder_lora_cpu.yaml"
INFERENCE = ROOT / "configs/inference/small_sdxl.yaml"
PIXELS, HELD_OUT = 64, 20
WITH, WITHOUT, WITH_TEXT = "tuned, with prior preservation", "tuned, without", "tuned, text encoders as well"


class Variant(NamedTuple):
    """A way of training."""

    config: Path
    prior: bool
    seeds: int
    words: tuple[str, ...] = ()  # more of the command
    photos: tuple[str, ...] = ()  # flags of draw_world.py beside the pictures


VARIANTS = {WITH: Variant(UNET, True, 3), WITHOUT: Variant(UNET, False, 3), WITH_TEXT: Variant(TEXT, True, 1)}


@dataclass(frozen=True)
class Bench:
    """What is run, and where."""

    folder: Path
    weight: Path
    sample_step: int
    guidance_scale: float
    num_seeds: int
    quick: bool

    def seeds(self, variant: Variant) -> range:
        return range(1, 2 if self.quick else variant.seeds + 1)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    bench = options_of(argv, __doc__, "subject")
    draw_subject(bench.folder / "held_out", "held-out", HELD_OUT)
    loras = {name: [train(bench, variant, seed) for seed in bench.seeds(variant)] for name, variant in VARIANTS.items()}
    rows = evaluate(bench, loras)
    means, spread = over_seeds(rows)
    text = page(means, rows, bench)
    print(text)
    target = bench.folder if bench.quick else ROOT / "bench"
    (target / "subject.md").write_text(text, encoding="utf-8")
    report.draw(target / "subject.png", means, spread)
    save_png(target / "subject_pictures.png", *examples(bench))


def options_of(argv: Optional[Sequence[str]], about: str, name: str) -> Bench:
    """The options of a bench with this name, its folder made."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one seed each, 20 steps, few pictures")
    parser.add_argument("--folder", help=f"where photos, LoRA and pictures go (default: runs/{name}, runs/{name}_quick)")
    parser.add_argument("--weight", default=str(ROOT / "checkpoints/small_sdxl.safetensors"), help="the small model")
    parser.add_argument("--sample_step", type=int, default=20)
    parser.add_argument("--guidance_scale", type=float, default=5.0)
    options = parser.parse_args(argv)
    folder = Path(options.folder or f"runs/{name}{'_quick' if options.quick else ''}").resolve()
    steps = 4 if options.quick else options.sample_step
    folder.mkdir(parents=True, exist_ok=True)
    return Bench(
        folder, Path(options.weight).resolve(), steps, options.guidance_scale, 2 if options.quick else 8, options.quick
    )


# -- running ---------------------------------------------------------------------------------------------------------


def draw_subject(folder: Path, kind: str, number: int, flags: Sequence[str] = ()) -> Path:
    """Pictures of the subject, `kind` as draw_world.py calls it, in a new folder or one that is there already."""
    if not folder.exists():
        words = ("--subject", kind, "--number", number, "--size", PIXELS, "--output", folder)
        project("tools/draw_world.py", *words, *flags)
    return folder


def train(bench: Bench, variant: Variant, seed: int) -> Path:
    """The LoRA of a variant and seed; trained unless there is one of the same command, YAML and base weights."""
    photos = bench.folder / "_".join(["photos", *(flag.strip("-") for flag in variant.photos if flag != "True")])
    draw_subject(photos, "training", 5, variant.photos)
    words = ["train_dreambooth.py", "--config", variant.config, "--weight", bench.weight, "--device_target", "CPU"]
    words += ["--instance_data_path", photos, "--instance_prompt", "A photo of a sks dog", "--seed", seed]
    words += ["--cache_dir", bench.folder / "cache", "--sample_step", bench.sample_step, "--sample_batch_size", 8]
    words += ["--prior_loss_weight", float(variant.prior)]
    if variant.prior:
        words += ["--class_data_path", bench.folder / "class", "--class_prompt", "A photo of a dog"]
    words += variant.words
    if bench.quick:
        words += ["--set", "data.total_step=20", *(("--num_class_images", 8) if variant.prior else ())]
    stamp = bench.weight.stat().st_size, bench.weight.stat().st_mtime_ns
    made_from = f"{words} {stamp} {variant.config.read_text(encoding='utf-8')}"
    folder = bench.folder / "lora" / hashlib.blake2b(made_from.encode(), digest_size=6).hexdigest()
    steps = 20 if bench.quick else load_config(str(variant.config)).data.total_step
    result = folder / f"SDXL_base_1.0_{steps}_lora.ckpt"
    if not result.exists():
        project(*words, "--save_path", folder)
    return result


def evaluate(bench: Bench, loras: Mapping[str, Sequence[Path]], class_prompt: str = "A photo of a dog") -> dict[str, Figures]:
    """The rows that tools/evaluate.py gives, in one run. With another class prompt only its pictures are sampled anew."""
    words = ["--config", INFERENCE, "--weight", bench.weight, "--device_target", "CPU", "--size", PIXELS]
    for name, paths in loras.items():
        for i, path in enumerate(paths):
            words += ["--lora", f"{name}, seed {i + 1}={path}"]
    words += [
        "--class_prompt",
        class_prompt,
        "--subject_photos",
        bench.folder / "photos",
        "--held_out",
        bench.folder / "held_out",
    ]
    words += ["--num_seeds", bench.num_seeds, "--sample_step", bench.sample_step, "--guidance_scale", bench.guidance_scale]
    output = bench.folder / "evaluation"
    project("tools/evaluate.py", *words, "--output", output)
    content = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    return {name: Figures(**row) for name, row in content["rows"].items()}


def project(script: str, *arguments: object) -> None:
    """Run one of the project's commands; leaves with its status when it fails."""
    print(f"running {script}", flush=True)
    status = subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)]).returncode
    if status:
        sys.exit(status)


# -- what came out ---------------------------------------------------------------------------------------------------


def variant_of(row: str) -> str:
    """The name of a row without its seed."""
    return row.partition(", seed ")[0]


def over_seeds(rows: Mapping[str, Figures]) -> tuple[dict[str, Figures], dict[str, dict[str, tuple[float, float]]]]:
    """Rows that are means over the seeds of training, and the lowest and highest of each figure."""
    groups: dict[str, list[Figures]] = {}
    for name, row in rows.items():
        groups.setdefault(variant_of(name), []).append(row)
    means, spread = {}, {}
    for name, group in groups.items():
        values = {field.name: [getattr(row, field.name) for row in group] for field in fields(Figures)}
        means[name] = Figures(**{key: mean(found) for key, found in values.items()})
        spread[name] = {key: (min(found), max(found)) for key, found in values.items() if None not in found}
    return means, spread


def claims(means: Mapping[str, Figures]) -> list[tuple[str, str, bool]]:
    """What should be seen, the figures, and whether they show it."""
    real, base, with_prior, without = (means[name] for name in (report.REAL, report.BASE, WITH, WITHOUT))
    result = []
    for name in (WITH, WITH_TEXT):
        come = way(base.subject, means[name].subject, real.subject)
        result.append((f"{name}: subject fidelity at least half of the way from base to real", f"{come:.0%}", come >= 0.5))
        for field, title in (("recognised", "places recognised"), ("prompt", "prompt fidelity")):
            mine, theirs = getattr(means[name], field), getattr(base, field)
            words = f"{mine:.3f} against {theirs:.3f}"
            result.append((f"{name}: {title} at least 0.8 of the base model's", words, mine >= 0.8 * theirs))
    words = f"{with_prior.pres:.3f} against {without.pres:.3f}"
    result.append(("PRES lower with prior preservation than without", words, with_prior.pres < without.pres))
    words = f"{with_prior.div:.3f} against {without.div:.3f}"
    return result + [("DIV higher with prior preservation than without", words, with_prior.div > without.div)]


def page(means: Mapping[str, Figures], rows: Mapping[str, Figures], bench: Bench) -> str:
    """bench/subject.md."""
    seen = "\n".join(f"| {what} | {figures} | {'yes' if true else '**no**'} |" for what, figures, true in claims(means))
    return f"""# The subject at a small scale

Written by `python bench/subject.py`{" --quick" if bench.quick else ""}. The small model, {PIXELS} x {PIXELS} pixels, on a CPU: five
drawn photos of a dog with three rare traits at once; five prompts with its held-out places, {bench.num_seeds} seeds each, and as many
pictures of "A photo of a dog"; {bench.sample_step} Euler steps, guidance {bench.guidance_scale:g}. Similarities are those of the judge
(tools/toy/judge.py), to {HELD_OUT} held-out pictures. What the figures are: [Evaluation](../docs/evaluation.md).

Means over the seeds of training:

{report.table(means)}

| what the paper found | figures | seen |
|---|---|---|
{seen}

![the figures; whiskers from the lowest to the highest seed](subject.png)

![pictures: real ones, then each model](subject_pictures.png)

Every training by itself:

{report.table({name: row for name, row in rows.items() if ", seed " in name})}
"""


def examples(bench: Bench) -> tuple:
    """A contact sheet, real photos first, then one row a model: each prompt with the first seed, then the class prompt;
    and its text."""
    rows, labels = [], []
    for name, folder in (("held-out pictures", "held_out"), ("photos", "photos")):
        paths = sorted((bench.folder / folder).glob("*.png"))
        rows.append([read_image(path) for path in paths[:8]])
        labels.append(name)
    for name in (report.BASE, *(f"{variant}, seed 1" for variant in VARIANTS)):
        paths = sorted((bench.folder / "evaluation" / name).glob("*.png"))
        prompts = sorted({path.name[:2] for path in paths})
        of = {number: [path for path in paths if path.name.startswith(number)] for number in prompts}
        shown = [of[number][0] for number in prompts[:-1]] + of[prompts[-1]][:3]
        rows.append([read_image(path) for path in shown])
        labels.append(name)
    return contact_sheet(rows, labels, PIXELS), {"rows": "\n".join(labels)}


if __name__ == "__main__":
    main()
