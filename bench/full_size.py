"""Run the real training command at full size on the CPU, with random weights, and print what it took.

Writes a random SDXL file (6.9 GB) and drawn pictures under --folder the first time, then runs train_dreambooth.py with
configs/training/sd_xl_base_finetune_dreambooth_lora_cpu.yaml at 256 px in a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command; returns the exit status of the training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="runs/full_size", help="where weights, pictures and results go (8 GB)")
    parser.add_argument("--steps", type=int, default=3, help="training steps")
    options = parser.parse_args(argv)
    folder = Path(options.folder)
    weight, subject, others = folder / "random_sdxl.safetensors", folder / "subject", folder / "class"
    if not weight.exists():
        run("tools/make_random_checkpoint.py", "--output", weight)
    for pictures, seed in ((subject, 0), (others, 1)):
        if not pictures.exists():
            run("tools/draw_photos.py", "--output", pictures, "--seed", seed)
    start = time.perf_counter()
    run(
        "train_dreambooth.py",
        *("--config", ROOT / "configs/training/sd_xl_base_finetune_dreambooth_lora_cpu.yaml", "--weight", weight),
        *("--instance_data_path", subject, "--instance_prompt", "A photo of a sks dog"),
        *("--class_data_path", others, "--class_prompt", "A photo of a dog", "--num_class_images", 5),
        *("--train_data_repeat", 1, "--device_target", "CPU", "--save_path", folder / "results"),
        *("--set", f"data.total_step={options.steps}", "--set", "data.dataset_config.params.target_size=256"),
    )
    whole = time.perf_counter() - start
    seconds = [json.loads(line)["seconds"] for line in (folder / "results" / "metrics.jsonl").read_text().splitlines()]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    print("| | |\n|---|---|")
    print(f"| launch to end, {options.steps} steps | {whole:.0f} s |")
    print(f"| compilation and first step | {seconds[0]:.0f} s |")
    if len(seconds) > 1:
        print(f"| further steps, median | {statistics.median(seconds[1:]):.1f} s |")
    print(f"| peak resident memory | {peak:.1f} GB |")
    return 0


def run(script: str, *arguments: object) -> None:
    """Run one of the project's commands; leaves with its status when it fails."""
    status = subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)]).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(main())
