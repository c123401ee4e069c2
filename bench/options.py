"""What each recipe option costs: seconds to compile and seconds a step, beside the same run without it.

    python bench/options.py            writes bench/options.md; 15 minutes on 2 cores
    python bench/options.py --steps 3 --folder FOLDER   fewer updates; writes to the folder only

The small model, 64 x 64 pixels, each option by itself. The plain run comes first and last: what the two differ by is noise.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs/training/small_dreambooth_lora_cpu.yaml"
DATA, LORA, LOSS = "data.dataset_config.params", "model.params.network_config.params", "model.params.loss_fn_config.params"
OPTIMIZER = "optim.optimizer_config.target=gm.training.optim"
PARAMS = "optim.optimizer_config.params"
TARGETS = f"{LORA}.lora_targets"
OPTIONS = {
    "plain": (),
    "captions, shuffled": (f"{DATA}.captions.shuffle=True", f"{DATA}.captions.dropout=0.05"),
    "150 tokens": (f"{DATA}.max_tokens=150",),
    "masks": (f"{DATA}.masks.unmasked_weight=0.1",),
    "masks with prior": (f"{DATA}.masks.prior_weight=1.0",),
    "Huber loss": (f"{LOSS}.loss_type=huber",),
    "multires noise": (f"{LOSS}.multires_noise_iterations=6",),
    "input perturbation": (f"{LOSS}.input_perturbation=0.1",),
    "Prodigy": (f"{OPTIMIZER}.Prodigy", "optim.base_learning_rate=1.0"),
    "Adafactor": (f"{OPTIMIZER}.Adafactor", f"{PARAMS}.relative_step=False", f"{PARAMS}.scale_parameter=False"),
    "Lion": (f"{OPTIMIZER}.Lion",),
    "LoRA+": ("optim.lora_plus_ratio=16",),
    "scale_weight_norms": ("optim.scale_weight_norms=1.0",),
    "EMA": ("optim.ema_decay=0.999",),
    "LoRA in all linear layers": (f"{TARGETS}=linear",),
    "LoRA in convolutions too": (f"{TARGETS}=all", f"{LORA}.lora_conv_dim=4"),
    "DoRA": (f"{LORA}.lora_kind=dora",),
    "rank dropout": (f"{LORA}.lora_rank_dropout=0.1",),
    "plain again": (),
}


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=None, help="of the runs and, if given, of the page")
    options = parser.parse_args(argv)
    folder = (options.folder or Path("runs/options")).resolve()
    draw_photos(folder)
    rows = {name: run(folder, name, entries, options.steps) for name, entries in OPTIONS.items()}
    text = page(rows, options.steps)
    print(text)
    ((options.folder or ROOT / "bench") / "options.md").write_text(text, encoding="utf-8")


def draw_photos(folder: Path) -> None:
    """Five photos with captions and masks."""
    if not (folder / "photos").exists():
        words = ["tools/draw_world.py", "--subject", "training", "--captions", "True", "--masks", "True", "--size", "64"]
        subprocess.run([sys.executable, *words, "--output", str(folder / "photos")], check=True, cwd=ROOT)


def run(folder: Path, name: str, entries: Sequence[str], steps: int) -> tuple[float, float]:
    """Seconds of compilation, and the median seconds of a step after the first five."""
    target = folder / name.replace(" ", "_").replace(",", "")
    words = ["train_dreambooth.py", "--config", CONFIG, "--weight", ROOT / "checkpoints/small_sdxl.safetensors"]
    words += [
        "--instance_data_path",
        folder / "photos",
        "--class_data_path",
        folder / "class",
        "--class_prompt",
        "A photo of a dog",
    ]
    words += ["--num_class_images", 8, "--sample_batch_size", 8, "--sample_step", 10, "--cache_dir", folder / "cache"]
    words += ["--save_path", target, "--device_target", "CPU", "--set", f"data.total_step={steps}"]
    words += [word for entry in entries for word in ("--set", entry)]
    if not (target / "timings.json").exists():  # an earlier run of this bench got so far
        print(f"{name} ...", flush=True)
        subprocess.run([sys.executable, *map(str, words)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    records = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    spent = json.loads((target / "timings.json").read_text())
    later = [record["seconds"] for record in records[min(5, steps - 1) :]]
    return spent["seconds"]["compilation"], statistics.median(later)


def page(rows: dict[str, tuple[float, float]], steps: int) -> str:
    """bench/options.md."""
    plain = statistics.mean(rows[name][1] for name in ("plain", "plain again"))
    lines = [f"| {name} | {compilation:.0f} | {step:.3f} | {step / plain:.2f} |" for name, (compilation, step) in rows.items()]
    table = "\n".join(lines)
    return f"""# What each recipe option costs

Written by `python bench/options.py`: the small model, 64 x 64 pixels, 2 instance and 2 class samples a step, {steps} updates, each
option by itself; {platform.machine()}, MindSpore {version("mindspore")}. "Plain" is run twice: what the two differ by is noise. Captions are
read in every run.

| option | compilation, s | step, s | of the plain step |
|---|---|---|---|
{table}
"""


if __name__ == "__main__":
    main()
