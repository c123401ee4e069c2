"""Measure how training scales over ranks on this machine's cores, count what is all-reduced, and draw the cost model.

    python bench/scaling.py            prints the tables of bench/scaling.md and writes bench/scaling.png

One rank and two ranks, each bound to one core with one thread, run the real command on a middle-sized SDXL with random
weights, in turn, three times each. Needs mpirun (requirements-test.txt).
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CONFIG = ROOT / "configs/training/tiny_dreambooth_lora_cpu.yaml"
MODEL = "model.params.network_config.params"
MIDDLE = ["--set", f"{MODEL}.model_channels=96"]
FULL_GRADIENT = (5_806_080 + 4) * 4  # bytes of one all-reduce at rank 4, full size: the matrices of 560 modules, four sums
# Seconds of a step, one instance and one class sample at 1024 px, on one Ascend 910*: not run here, but published by mindone
# for its own SDXL DreamBooth example (MindSpore 2.3.1, jit level O2):
# https://github.com/mindspore-lab/mindone/blob/000cb7473ca9ad658012e4bde7cb341ea37e71b0/examples/stable_diffusion_xl/docs/dreambooth_finetune.md
STEP = 1.1


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--model-only", action="store_true", help="print and draw the cost model, measure nothing")
    options = parser.parse_args(argv)
    if not options.model_only:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), options.repeats, options.steps)
    print_model()
    draw_model(ROOT / "bench" / "scaling.png")


# -- measured --------------------------------------------------------------------------------------------------------


def measure(folder: Path, repeats: int, steps: int) -> None:
    """Print the measured tables; `folder` is for what the runs write."""
    python("tools/make_random_checkpoint.py", "--config", CONFIG, *MIDDLE, "--output", folder / "base.safetensors")
    for name, which in (("subject", ("--subject", "training")), ("class", ("--number", 5, "--size", 384))):
        python("tools/draw_world.py", *which, "--output", folder / name)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for ranks in seconds:
            seconds[ranks].append(step_seconds(folder, ranks, steps))
    one, two = (statistics.median(values) for values in seconds.values())
    print(
        "| ranks (one core each) | seconds a step, median of runs | all runs | samples a second | efficiency |\n|---|---|---|---|---|"
    )
    for ranks, values in seconds.items():
        median = statistics.median(values)
        runs = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {ranks} | {median:.3f} | {runs} | {2 * ranks / median:.2f} | {one / median:.1%} |")
    counted = count_all_reduces(folder)
    print("\n| graph | all-reduce nodes | bytes each |\n|---|---|---|")
    for graph, sizes in counted.items():
        print(f"| {graph} | {len(sizes)} | {', '.join(f'{size:,}' for size in sizes) or '-'} |")
    print("\n| all-reduce of 23.2 MB | seconds, median of 20 |\n|---|---|")
    for ranks in (2, 4):
        print(f"| {ranks} ranks on 2 cores | {all_reduce_seconds(ranks):.3f} |")
    print()


def python(script: str, *arguments: object) -> None:
    """Run one of the project's commands quietly."""
    subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], check=True, capture_output=True)


def train(folder: Path, ranks: int, steps: int, environment: Optional[dict] = None) -> Path:
    """The real command under mpirun; returns the folder of its results."""
    results = folder / f"results_{ranks}"
    words = [Path(sys.executable).parent / "mpirun", "--allow-run-as-root", "--bind-to", "core", "-n", ranks, sys.executable]
    words += [ROOT / "train_dreambooth.py", "--config", CONFIG, "--weight", folder / "base.safetensors", *MIDDLE]
    words += ["--instance_data_path", folder / "subject", "--instance_prompt", "A photo of a sks dog"]
    words += ["--class_data_path", folder / "class", "--class_prompt", "A photo of a dog", "--num_class_images", 5]
    words += ["--set", f"data.total_step={steps}", "--set", "data.dataset_config.params.target_size=256"]
    words += ["--device_target", "CPU", "--is_parallel", "True", "--save_path", results, "--train_data_repeat", 1]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {})
    subprocess.run([str(word) for word in words], check=True, capture_output=True, env=variables, cwd=folder)
    return results


def step_seconds(folder: Path, ranks: int, steps: int) -> float:
    """Median of the steps after the second."""
    lines = (train(folder, ranks, steps) / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["seconds"] for line in lines[2:])


def count_all_reduces(folder: Path) -> dict[str, list[int]]:
    """Graph -> bytes of each AllReduce node in it, read from the graphs that MindSpore compiled for rank 0."""
    dumped = folder / "graphs"
    train(folder, 2, 1, {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_SAVE_GRAPHS_PATH": str(dumped)})
    found = {}
    for path in sorted((dumped / "rank_0").glob("*_validate_*.ir")):
        text = path.read_text(errors="replace")
        sizes = []
        for line in re.findall(r"^.*= AllReduce\(.*\n.*$", text, re.M):
            shape = re.search(r"-> \(<Tensor\[Float32\], \(([\d, ]+)\)", line)
            numbers = 1
            for number in shape.group(1).split(","):
                numbers *= int(number) if number.strip() else 1
            sizes.append(4 * numbers)
        if "Conv2D" in text:
            kind = "micro-step: forward and backward"
        elif "Sqrt(" in text and sizes:
            kind = "reduction, once per update"
        else:
            kind = "sharing what is cached, before training, in pieces" if sizes else "optimizer"
        found[kind] = sizes
    return found


def all_reduce_seconds(ranks: int) -> float:
    """Of a buffer as large as the gradient at full size, by MindSpore's CPU collectives."""
    words = [Path(sys.executable).parent / "mpirun", "--allow-run-as-root", "--oversubscribe", "-n", ranks, sys.executable]
    words += [ROOT / "bench" / "all_reduce.py", FULL_GRADIENT]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, env=variables)
    return float(done.stdout.split()[-1])


# -- the cost model --------------------------------------------------------------------------------------------------


def all_reduce_model(ranks: int, per_host: int, inside: float, between: float, hop: float) -> float:
    """Seconds of a ring all-reduce of the gradient: 2 (n - 1) / n of it over the slowest link, 2 (n - 1) hops.

    `inside` and `between` hosts: bytes a second of a link in one direction; `hop`: seconds of one message.
    """
    if ranks == 1:
        return 0.0
    slowest = inside if ranks <= per_host else between
    return 2 * (ranks - 1) / ranks * FULL_GRADIENT / slowest + 2 * (ranks - 1) * hop


LINKS = dict(per_host=8, inside=30e9, between=12.5e9, hop=15e-6)


def efficiency(ranks: int, accumulation: int = 1) -> float:
    """Share of an update's time that is not spent waiting for the all-reduce."""
    compute = STEP * accumulation
    return compute / (compute + all_reduce_model(ranks, **LINKS))


def print_model() -> None:
    """The table of the cost model."""
    print(
        "| NPUs | all-reduce, ms | efficiency, accumulation 1 | accumulation 4 | samples in an update, accumulation 1 |\n|---|---|---|---|---|"
    )
    for ranks in (1, 2, 8, 64, 512):
        seconds = all_reduce_model(ranks, **LINKS)
        print(f"| {ranks} | {seconds * 1e3:.1f} | {efficiency(ranks):.1%} | {efficiency(ranks, 4):.1%} | {ranks} + {ranks} |")


def draw_model(target: Path) -> None:
    """Efficiency over the number of NPUs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes, counts = figure.add_subplot(), [2**n for n in range(11)]
    for accumulation in (1, 4):
        label = f"accumulation {accumulation}"
        axes.plot(counts, [100 * efficiency(n, accumulation) for n in counts], marker="o", label=label)
    axes.set(
        xscale="log",
        xlabel="NPUs",
        ylabel="efficiency, %",
        ylim=(80, 100.5),
        title=f"Cost model with mindone's {STEP} s a step on a 910*; not run here",
    )
    axes.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(target))


if __name__ == "__main__":
    main()
