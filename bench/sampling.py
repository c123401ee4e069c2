"""How fast pictures are made: a step here and in diffusers on the same CPU, pictures a minute by batch, launch to first picture.

    python bench/sampling.py           full size, about 40 minutes, 24 GB of memory; writes bench/sampling.md
    python bench/sampling.py --tiny    the tiny model in place of the full one, within minutes; prints only

The first time it writes random base weights and installs diffusers and PyTorch into an environment of their own, as
bench/full_size.py does and in the same --folder. Then, with the same threads: steps with guidance, here and in diffusers in
turn; whole pictures of the small model at batch 1, 4 and 8, and as many of the full one as memory allows; the sampling
command from its launch to the first PNG, with an empty --compile_cache_dir and with a filled one. Nothing else may run
meanwhile.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np

from bench import full_size
from bench.full_size import Setting, spread
from bench.watch import run
from gm.config.load import load_config
from gm.options.sample import SampleOptions

SMALL = ROOT / "configs/inference/small_sdxl.yaml", ROOT / "checkpoints/small_sdxl.safetensors", 64
BATCHES, FULL_BATCHES = (1, 4, 8), (1, 2, 4)
SMALL_STEPS = 20
DTYPES = ("float32", "bfloat16")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model instead of the full one")
    parser.add_argument("--folder", default="runs/bench", help="where weights, environment and results go")
    parser.add_argument("--weight", help="a random full-size .safetensors that is already there")
    parser.add_argument("--torch_python", type=Path, help="a Python that has diffusers, peft and PyTorch already")
    parser.add_argument("--rounds", type=int, default=3, help="of each, in turn")
    parser.add_argument("--sample_steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--asked", help=argparse.SUPPRESS)  # what a process of its own measures, JSON
    options = parser.parse_args(argv)
    if options.asked:
        print(json.dumps(measure_here(Asked(**json.loads(options.asked)))))
        return
    setting = prepared(options)
    steps, pictures, launches = measure(setting, options)
    text = page(setting, options, steps, pictures, launches)
    print(f"\n{text}\n")
    if not options.tiny:
        write(ROOT / "bench" / "sampling.md", text)


def prepared(options: argparse.Namespace) -> Setting:
    """The files that are measured with, and where diffusers runs."""
    kind = "tiny_sdxl" if options.tiny else "sd_xl_base"
    train = "tiny_dreambooth_lora_cpu" if options.tiny else "sd_xl_base_finetune_dreambooth_lora_cpu"
    folder = Path(options.folder).resolve() / ("tiny" if options.tiny else "full")
    setting = Setting(
        config=ROOT / f"configs/training/{train}.yaml",
        inference=ROOT / f"configs/inference/{kind}.yaml",
        pixels=128 if options.tiny else 256,
        folder=folder,
        weight=Path(options.weight).resolve() if options.weight else folder / "random_sdxl.safetensors",
        steps=0,
        sample_steps=options.sample_steps,
        environment=os.environ | {"OMP_NUM_THREADS": str(options.threads)},
    )
    if options.torch_python:
        place = setting.torch_python
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.write_text(f'#!/bin/sh\nexec "{options.torch_python.absolute()}" "$@"\n')
            place.chmod(0o755)
    full_size.prepare(setting)
    return setting


# -- one process of this suite ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What a process of its own measures."""

    config: str
    weight: str
    pixels: int
    steps: int
    batch: int
    rounds: int


def measure_here(asked: Asked) -> dict[str, list[float]]:
    """Seconds of a step, and of making and decoding one picture of the batch, both of `rounds` batches after a first one that
    compiles. The text is random: encoding is not measured."""
    from gm import runtime
    from gm.config.types import SampleSettings
    from gm.encoding.source import Source
    from gm.encoding.text import TextEmbedding, unconditional
    from gm.runtime import Runtime
    from gm.sampling.pipeline import Pipeline

    model = load_config(asked.config, [], training=False).model
    pipeline = Pipeline(Source(model, asked.weight, runtime.start(Runtime("CPU", 0, "O0"), 0, [model])))
    settings = SampleSettings.square(asked.pixels, asked.steps)
    pipeline.require_memory([settings], asked.batch)
    pipeline.load()
    random = np.random.default_rng(0)
    context = random.standard_normal((77, model.unet.context_dim), np.float32)
    text = TextEmbedding(context, random.standard_normal(model.text_encoders[1].embed_dim, np.float32))
    given = text, unconditional(text)
    seeds = range(asked.batch)
    pipeline.pictures(*given, dataclasses.replace(settings, steps=1), seeds, "compiling")
    found: dict[str, list[float]] = {"step": [], "picture": []}
    for _ in range(asked.rounds):
        begun = time.perf_counter()
        latents = pipeline.pictures.latents(*given, settings, seeds, "sampling")
        found["step"].append((time.perf_counter() - begun) / asked.steps)
        for latent in latents:
            pipeline.pictures.decode(latent[None])
        found["picture"].append((time.perf_counter() - begun) / asked.batch)
    return found


def here(setting: Setting, asked: Asked) -> Optional[dict[str, list[float]]]:
    """`measure_here` in a process of its own; None where this host has too little memory."""
    print(f"here, batch {asked.batch}, {Path(asked.config).stem} ...", flush=True)
    words = [sys.executable, __file__, "--asked", json.dumps(asdict(asked))]
    try:
        output = run(words, setting.folder / f"here_{asked.batch}.log", setting.environment).output
    except SystemExit as error:
        if "memory" in str(error):
            return None
        raise
    return json.loads(output.strip().splitlines()[-1])


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(setting: Setting, options: argparse.Namespace):
    """Steps by who makes them; pictures by model and batch; launches by state of the cache. Seconds."""
    steps: dict[str, list[float]] = {"here": [], **{dtype: [] for dtype in DTYPES}}
    asked = Asked(str(setting.inference), str(setting.weight), setting.pixels, setting.sample_steps, 1, 1)
    for _ in range(options.rounds):
        steps["here"] += here(setting, asked)["step"]
        for dtype in DTYPES:
            steps[dtype] += full_size.diffusers(setting, dtype)["sampling"][1:]
    pictures = {}
    config, weight, pixels = SMALL
    for batch in BATCHES:
        small = Asked(str(config), str(weight), pixels, SMALL_STEPS, batch, options.rounds)
        pictures["small", batch] = here(setting, small)
    for batch in FULL_BATCHES:
        pictures["full", batch] = here(setting, dataclasses.replace(asked, batch=batch))
    launches: dict[str, list[float]] = {"no cache": [], "cold": [], "warm": []}
    cache = setting.folder / "sampling_graphs"
    for _ in range(options.rounds):
        shutil.rmtree(cache, ignore_errors=True)
        launches["no cache"].append(launch(setting, None))
        if has_cache():
            launches["cold"].append(launch(setting, cache))
            launches["warm"].append(launch(setting, cache))
    return steps, pictures, launches


def has_cache() -> bool:
    return "compile_cache_dir" in {one.name for one in dataclasses.fields(SampleOptions)}


def launch(setting: Setting, cache: Optional[Path]) -> float:
    """Seconds from the launch of the sampling command to its first whole PNG, of one step: what is left is start,
    encoding, loading, compiling and decoding."""
    print("sampling command ...", flush=True)
    folder = setting.folder / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    words = [sys.executable, ROOT / "demo/sampling_without_streamlit.py", "--config", setting.inference]
    words += ["--weight", setting.weight, "--prompt", "a dog on a beach", "--device_target", "CPU", "--sample_step", 1]
    words += ["--height", setting.pixels, "--width", setting.pixels, "--save_path", folder]
    words += ["--compile_cache_dir", cache] if cache else []
    begun = time.time()
    run(words, setting.folder / "launch.log", setting.environment)
    return min(path.stat().st_mtime for path in folder.rglob("*.png")) - begun


# -- telling ---------------------------------------------------------------------------------------------------------


def page(setting: Setting, options: argparse.Namespace, steps, pictures, launches) -> str:
    """The results, Markdown."""
    ours, theirs = statistics.median(steps["here"]), statistics.median(steps["float32"])
    lines = [
        f"# Sampling\n\n{machine(options.threads, setting)}",
        f"`python bench/sampling.py`; seconds, median (smallest-largest). {setting.pixels} px, guidance 5, float32 here.",
        "## A step with guidance\n\n| here | diffusers float32 | diffusers bfloat16 | here / float32 |\n|---|---|---|---|\n"
        f"| {spread(steps['here'])} | {spread(steps['float32'])} | {spread(steps['bfloat16'])} | {ours / theirs:.2f} |",
        f"## Pictures a minute\n\nSmall model: 64 px, {SMALL_STEPS} steps. Full size: {setting.pixels} px, "
        f"{setting.sample_steps} steps. With decoding, after compiling; - where memory is too small.\n\n"
        "| model | batch | pictures a minute | seconds a step |\n|---|---|---|---|\n"
        + "\n".join(picture_row(*key, found) for key, found in pictures.items()),
        "## From launch to the first picture\n\nOne step, so it is all but the sampling.\n\n| compile cache | seconds |\n|---|---|\n"
        + "\n".join(f"| {name} | {spread(found) if found else '-'} |" for name, found in launches.items()),
    ]
    return "\n\n".join(lines)


def picture_row(model: str, batch: int, found: Optional[dict[str, list[float]]]) -> str:
    if found is None:
        return f"| {model} | {batch} | - | - |"
    rate = 60 / statistics.median(found["picture"])
    return f"| {model} | {batch} | {rate:.3g} | {spread(found['step'])} |"


def machine(threads: int, setting: Setting) -> str:
    """Date, processor and versions."""
    import mindspore

    words = [setting.torch_python, "-c", "import torch, diffusers; print(torch.__version__, diffusers.__version__)"]
    versions = subprocess.run(list(map(str, words)), capture_output=True, text=True).stdout.split()
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{time.strftime('%Y-%m-%d')}. {cpu[1] if cpu else 'CPU'}, {os.cpu_count()} cores, {threads} threads. "
        f"MindSpore {mindspore.__version__}; torch {versions[0]}, diffusers {versions[1]}."
    )


def write(path: Path, text: str) -> None:
    """The page; what a person wrote into it under "## Notes" stays."""
    notes = path.read_text().partition("\n## Notes\n")[2] if path.exists() else ""
    path.write_text(text + "\n" + (f"\n## Notes\n{notes}" if notes else ""))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
