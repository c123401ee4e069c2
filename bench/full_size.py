"""Measure the real commands at full size on a CPU, and the same training step in diffusers + peft + PyTorch.

    python bench/full_size.py           about 20 minutes, 24 GB of memory, 8 GB of disk; writes bench/RESULTS.md
    python bench/full_size.py --tiny    the same for the tiny model, within a minute; prints only

The first time it writes random base weights, draws photos, and installs diffusers and PyTorch into an environment of their
own, all under --folder. Then both are run in turn, with the same threads: training at 256 px, rank 4, one instance and one
class sample a step, float32; first with empty caches, then with --compile_cache_dir and --cache_dir filled; and sampling
with guidance. Nothing else may run meanwhile.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench import counts, operators
from bench.watch import Finished, run
from gm.config.load import load_config
from gm.config.types import ModelConfig

PACKAGES = ("torch==2.13.0", "diffusers==0.42.1", "peft==0.21.2", "transformers==5.22.2", "accelerate==1.15.0")
DTYPES = ("float32", "bfloat16")
NETWORK = "model.params.network_config.params"


@dataclass
class Setting:
    """What is measured, and with what."""

    config: Path  # the training YAML
    inference: Path  # the same model without LoRA
    pixels: int
    folder: Path
    weight: Path
    steps: int
    sample_steps: int
    environment: dict[str, str]
    model: ModelConfig = field(init=False)

    def __post_init__(self) -> None:
        self.checked = load_config(str(self.config), training=True)
        self.model = self.checked.model

    @property
    def torch_python(self) -> Path:
        return self.folder.parent / "diffusers_env" / "bin" / "python"


@dataclass
class Training:
    """One run of train_dreambooth.py."""

    finished: Finished
    stages: dict[str, float]  # seconds of the main thread, in the order in which they began
    beside: dict[str, float]  # of what ran beside them
    steps: list[float]  # seconds of each


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model instead")
    parser.add_argument("--folder", default="runs/bench", help="where weights, pictures, environment and results go")
    parser.add_argument("--weight", help="a random full-size .safetensors that is already there")
    parser.add_argument("--rounds", type=int, help="warm runs of each (default 2, tiny 1)")
    parser.add_argument("--steps", type=int, default=6, help="training steps of a run")
    parser.add_argument("--sample-steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(argv)
    name = "tiny" if options.tiny else "full"
    folder = Path(options.folder).resolve() / name
    kind = "tiny_dreambooth_lora_cpu" if options.tiny else "sd_xl_base_finetune_dreambooth_lora_cpu"
    setting = Setting(
        config=ROOT / f"configs/training/{kind}.yaml",
        inference=ROOT / f"configs/inference/{'tiny_sdxl' if options.tiny else 'sd_xl_base'}.yaml",
        pixels=128 if options.tiny else 256,
        folder=folder,
        weight=Path(options.weight).resolve() if options.weight else folder / "random_sdxl.safetensors",
        steps=options.steps,
        sample_steps=options.sample_steps,
        environment=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
    )
    prepare(setting)
    start = time.perf_counter()
    trainings, sampling, theirs = measure(setting, options.rounds or (1 if options.tiny else 2))
    table = results(setting, trainings, sampling, theirs)
    count = counts.step_table(setting.checked, setting.pixels if options.tiny else 1024)
    print(f"\n{table}\n\n{count}\n")
    if options.tiny:
        print(f"measured in {time.perf_counter() - start:.0f} s")
        return
    shares = operators.profile_step(lambda variables: train(setting, "profiled", True, variables).steps, folder / "profile")
    nodes = count_nodes(setting)
    operators.draw(shares, ROOT / "bench" / "full_size.png")
    write(ROOT / "bench" / "RESULTS.md", machine(theirs, options.threads), setting.pixels, table, shares, count, nodes)


# -- preparing -------------------------------------------------------------------------------------------------------


def prepare(setting: Setting) -> None:
    """Make what is missing: weights, photos, and the environment of diffusers."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    if not setting.weight.exists():
        project("tools/make_random_checkpoint.py", "--config", setting.config, "--output", setting.weight)
    for name, which in (("subject", ("--subject", "training")), ("class", ("--number", 5, "--size", 384))):
        if not (setting.folder / name).exists():
            project("tools/draw_world.py", *which, "--output", setting.folder / name)
    if not setting.torch_python.exists():
        print("installing diffusers, peft and PyTorch into an environment of their own", flush=True)
        place = setting.torch_python.parent.parent
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        done = subprocess.run([place / "bin" / "pip", "install", "-q", *PACKAGES])
        if done.returncode:
            shutil.rmtree(place)
            sys.exit("diffusers could not be installed: see above")
    shutil.rmtree(setting.folder / "caches", ignore_errors=True)


def project(script: str, *arguments: object) -> None:
    """Run one of the project's commands; leaves with its status when it fails."""
    status = subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)]).returncode
    if status:
        sys.exit(status)


# -- running ---------------------------------------------------------------------------------------------------------


def measure(setting: Setting, rounds: int) -> tuple[list[Training], list[float], dict[str, list[dict]]]:
    """Our training runs (the first cold), our seconds per sampling step, and diffusers' runs by type; in turn."""
    trainings, sampling, theirs = [], [], {dtype: [] for dtype in DTYPES}
    for number in range(rounds):
        if number == 0:
            trainings.append(train(setting, "cold", True))
        theirs["float32"].append(diffusers(setting, "float32"))
        trainings.append(train(setting, f"warm_{number}", True))
        theirs["bfloat16"].append(diffusers(setting, "bfloat16"))
        sampling.append(sample(setting))
    return trainings, sampling, theirs


def train(
    setting: Setting, name: str, cached: bool, variables: Optional[dict[str, str]] = None, more: Sequence[object] = ()
) -> Training:
    """The real command."""
    folder, results = setting.folder, setting.folder / "results" / name
    words = [sys.executable, ROOT / "train_dreambooth.py", "--config", setting.config, "--weight", setting.weight]
    words += ["--instance_data_path", folder / "subject", "--instance_prompt", "A photo of a sks dog"]
    words += ["--class_data_path", folder / "class", "--class_prompt", "A photo of a dog", "--num_class_images", 5]
    words += ["--train_data_repeat", 1, "--device_target", "CPU", "--save_path", results]
    words += [
        "--set",
        f"data.total_step={setting.steps}",
        "--set",
        f"data.dataset_config.params.target_size={setting.pixels}",
    ]
    if cached:
        words += ["--cache_dir", folder / "caches" / "latents", "--compile_cache_dir", folder / "caches" / "graphs"]
    print(f"training, {name} ...", flush=True)
    finished = run([*words, *more], folder / f"train_{name}.log", setting.environment | (variables or {}))
    timings = json.loads((results / "timings.json").read_text())
    lines = (results / "metrics.jsonl").read_text().splitlines()
    return Training(finished, timings["seconds"], timings["beside"], [json.loads(line)["seconds"] for line in lines])


def sample(setting: Setting) -> float:
    """Seconds per step of the second picture, whose graph is compiled already; as the command's progress bar says."""
    words = [
        sys.executable,
        ROOT / "demo/sampling_without_streamlit.py",
        "--config",
        setting.inference,
        "--weight",
        setting.weight,
    ]
    words += ["--prompt", "a dog on a beach", "--height", setting.pixels, "--width", setting.pixels, "--num_cols", 2]
    words += ["--sample_step", setting.sample_steps, "--device_target", "CPU", "--save_path", setting.folder / "pictures"]
    print("sampling ...", flush=True)
    output = run(words, setting.folder / "sample.log", setting.environment).output
    rate, unit = re.findall(r"sampling 2/2: 100%.*?([\d.]+)(s/step|step/s)\]", output)[-1]
    return float(rate) if unit == "s/step" else 1 / float(rate)


def diffusers(setting: Setting, dtype: str) -> dict:
    """The same step in diffusers; see bench/diffusers_step.py."""
    unet = json.dumps(asdict(setting.model.unet) | {"size_embed_dim": setting.model.size_embed_dim})
    words = [
        setting.torch_python,
        ROOT / "bench/diffusers_step.py",
        "--unet",
        unet,
        "--size",
        setting.pixels,
        "--dtype",
        dtype,
    ]
    words += ["--steps", setting.steps, "--sample-steps", setting.sample_steps, "--rank", setting.checked.lora["unet"].rank]
    words += ["--threads", setting.environment["OMP_NUM_THREADS"]]
    print(f"diffusers, {dtype} ...", flush=True)
    return json.loads(
        run(words, setting.folder / f"diffusers_{dtype}.log", setting.environment).output.strip().splitlines()[-1]
    )


def count_nodes(setting: Setting) -> int:
    """Nodes of the micro-step's graph as MindSpore validates it, in a narrow model with as many blocks."""
    tiny = ROOT / "configs/training/tiny_dreambooth_lora_cpu.yaml"
    deep = ["--set", f"{NETWORK}.transformer_depth={list(setting.model.unet.transformer_depth)}".replace(" ", "")]
    folder = setting.folder / "nodes"
    shutil.rmtree(folder, ignore_errors=True)
    narrow = Setting(tiny, setting.inference, 64, folder, folder / "base.safetensors", 1, 1, setting.environment)
    folder.mkdir(parents=True)
    project("tools/make_random_checkpoint.py", "--config", tiny, *deep, "--output", narrow.weight)
    for name in ("subject", "class"):
        shutil.copytree(setting.folder / name, folder / name)
    dump = {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_SAVE_GRAPHS_PATH": str(folder / "graphs")}
    train(narrow, "nodes", False, dump, deep)
    texts = [path.read_text(errors="replace") for path in (folder / "graphs").rglob("*_validate_*.ir")]
    return max(len(re.findall(r"^\s*%\d+\(.*?\) = ", text, re.M)) for text in texts if "Conv2D" in text)


# -- telling ---------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    digits = 3 if max(values) < 1 else 2
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def before_first_step(training: Training) -> float:
    """Seconds from the launch of the command to its first finished step."""
    names = list(training.stages)
    return sum(training.stages[name] for name in names[: names.index("first step") + 1])


def results(setting: Setting, trainings: Sequence[Training], sampling: Sequence[float], theirs: dict[str, list[dict]]) -> str:
    """The table of what was measured, Markdown."""
    cold, warm = trainings[0], trainings[1:]
    steady = [step for training in trainings for step in training.steps[1:]]
    median = statistics.median(steady)

    def stage(*names: str) -> list[str]:
        def total(training: Training) -> float:
            return sum(training.stages.get(name, 0.0) + training.beside.get(name, 0.0) for name in names)

        return [f"{total(cold):.1f}", f"{statistics.median(map(total, warm)):.1f}"]

    def torch(get) -> list[str]:
        return [get(theirs[dtype]) for dtype in DTYPES]

    none = ["-", "-"]
    step_of = {dtype: [step for one in theirs[dtype] for step in one["steps"][1:]] for dtype in DTYPES}
    sample_of = {dtype: [step for one in theirs[dtype] for step in one["sampling"][1:]] for dtype in DTYPES}
    rows = [
        (
            "start of the program, imports, checks",
            stage("starting", "other"),
            torch(lambda runs: f"{runs[0]['import']:.1f}"),
        ),
        ("prompts and photos, beside what follows: encoding, or reading the cache", stage("prompts", "photos"), none),
        (
            "building the UNet",
            stage("building the UNet"),
            torch(lambda runs: f"{runs[0]['build and fill']:.1f} (random, no file)"),
        ),
        ("loading the UNet", stage("loading the UNet"), none),
        ("compiling the training graph", stage("compilation"), none),
        ("waiting for prompts and photos", stage("waiting for prompts and photos"), none),
        (
            "first step",
            stage("first step"),
            torch(lambda runs: f"{runs[0]['steps'][0]:.1f}"),
        ),
        (
            "launch to first finished step",
            [f"{before_first_step(cold):.1f}", spread([before_first_step(training) for training in warm])],
            torch(lambda runs: f"{runs[0]['launch to first step']:.1f}"),
        ),
        (
            "steady step",
            [spread(cold.steps[1:]), spread([s for t in warm for s in t.steps[1:]])],
            [spread(step_of[d]) for d in DTYPES],
        ),
        ("sampling step with guidance", [spread(sampling), "-"], [spread(sample_of[dtype]) for dtype in DTYPES]),
        (
            "peak memory of the largest process, GB",
            [f"{cold.finished.largest_gb:.1f}", f"{max(t.finished.largest_gb for t in warm):.1f}"],
            torch(lambda runs: f"{max(one['peak GB'] for one in runs):.1f}"),
        ),
        (
            "peak memory of all processes together, GB",
            [f"{cold.finished.tree_gb:.1f}", f"{max(t.finished.tree_gb for t in warm):.1f}"],
            none,
        ),
    ]
    lines = ["| | here, cold | here, caches warm | diffusers float32 | diffusers bfloat16 |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(ours + others)} |" for name, ours, others in rows]
    ratio = {dtype: median / statistics.median(step_of[dtype]) for dtype in DTYPES}
    guided = {dtype: statistics.median(sampling) / statistics.median(sample_of[dtype]) for dtype in DTYPES}
    work = counts.unet_work(
        setting.model.unet, setting.pixels, setting.checked.lora["unet"].rank, not setting.checked.trains_text_encoders
    )
    operations = 2 * (work.forward + work.backward)
    lines += [
        "",
        f"Steady step here / diffusers float32: {ratio['float32']:.2f}; / bfloat16: {ratio['bfloat16']:.2f}. "
        f"Sampling step here / diffusers float32: {guided['float32']:.2f}; / bfloat16: {guided['bfloat16']:.2f}. "
        f"The step's {operations / 1e12:.3g} TFLOP went at {operations / median / 1e9:.3g} GFLOP/s.",
    ]
    return "\n".join(lines)


def write(path: Path, about: str, pixels: int, table: str, shares: operators.Shares, count: str, nodes: int) -> None:
    """The results as a page; what a person wrote into it under "## Notes" stays."""
    notes = path.read_text().partition("\n## Notes\n")[2] if path.exists() else ""
    parts = [
        f"# Results\n\n{about}",
        f"Full size, random weights, {pixels} px, rank 4, instance + class: `python bench/full_size.py`. Seconds; of\n"
        "repeated steps the median (smallest-largest).",
        table,
        "## Where the time of a step goes\n\nBy MindSpore's profiler, the operators that take most:",
        f"![a step's time by operator](full_size.png)\n\n{operators.table(shares)}",
        f"## What holds on any hardware\n\n{count}",
        f"The training graph has {nodes:,} nodes before MindSpore optimizes it. Operations are counted by\n"
        "bench/counts.py, without norms, activations and softmax.",
    ]
    path.write_text("\n\n".join(parts) + "\n" + (f"\n## Notes\n{notes}" if notes else ""))
    print(f"written: {path}")


def machine(theirs: dict[str, list[dict]], threads: int) -> str:
    """Date, processor, memory and versions."""
    import mindspore

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    flags = Path("/proc/cpuinfo").read_text()
    features = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024 / 1e9
    versions = theirs["float32"][0]["versions"]
    others = ", ".join(f"{name} {versions[name]}" for name in ("torch", "diffusers", "peft"))
    return (
        f"{time.strftime('%Y-%m-%d')}. {cpu[1] if cpu else platform.machine()} ({', '.join(features)}), "
        f"{os.cpu_count()} cores, {memory:.0f} GB, {threads} threads. "
        f"Python {platform.python_version()}, MindSpore {mindspore.__version__}; {others}."
    )


if __name__ == "__main__":
    main()
