"""Real runs of the small model, good ones and ones with a fault, as tests/recorded/NAME.json.gz: the lines of metrics.jsonl, the other
files of the run that are text, what its LoRA files say, and how large their matrices are. Recorded in November 2026, MindSpore 2.7.2.

Each holds the command that made it, what differs from COMMAND. `python tests/recorded_runs.py FOLDER NAME COMMAND [EVERY]` records the run
in FOLDER, or of its updates each so many. Where there is an evaluation, it is EVALUATE's, of the checkpoints that it names.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gm.checkpoint.io import open_tensors, write_tensors
from gm.training.checkpoints import SaveSettings
from gm.training.diagnosis.facts import CONFIG, EVALUATION, METRICS, TIMINGS, look_at, lora_files

# photos: tools/draw_world.py --subject training; class: those of the quick start
COMMAND = """python train_dreambooth.py --config configs/training/small_dreambooth_lora_cpu.yaml --weight checkpoints/small_sdxl.safetensors
 --instance_data_path photos --instance_prompt "A photo of a sks dog" --class_data_path class --class_prompt "A photo of a dog"
 --seed 1 --device_target CPU --cache_dir cache --compile_cache_dir graphs --save_path runs/NAME"""
EVALUATE = """python tools/evaluate.py --config configs/inference/small_sdxl.yaml --weight checkpoints/small_sdxl.safetensors --size 64
 --subject_photos photos --held_out held_out --num_seeds 3 --sample_step 10 --prompts: in a pool, in the snow"""
RECORDED = Path(__file__).parent / "recorded"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in RECORDED.glob("*.json.gz"))
UNSAID = ("recipe_yaml", "ss_training_started_at", "ss_training_finished_at")


def record(folder: Path, name: str, command: str, every: int = 1) -> Path:
    """Write down the run in `folder`, of its updates those whose number `every` divides."""
    loras = lora_files(folder)
    with open_tensors(loras[max(loras)]) as file:
        said = {key: text for key, text in file.metadata.items() if key not in UNSAID}
    sizes = {step: look_at(path)[1] for step, path in loras.items()}
    evaluation = folder / EVALUATION
    metrics = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    content = {
        "command": command,
        "metrics": [_rounded(line) for line in metrics if line["step"] % every == 0],
        "config": (folder / CONFIG).read_text(),
        "timings": json.loads((folder / TIMINGS).read_text()),
        "said": said,
        "sizes": {step: [float(f"{size.a:.4g}"), float(f"{size.b:.4g}")] for step, size in sorted(sizes.items()) if size},
        "checkpoints": _rounded(json.loads(evaluation.read_text())) if evaluation.exists() else None,
    }
    path = RECORDED / f"{name}.json.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))
    return path


def unpack(name: str, folder: Path) -> Path:
    """`folder`, with the files of this run; a LoRA file has one module of the run's sizes."""
    content = json.loads(gzip.decompress((RECORDED / f"{name}.json.gz").read_bytes()))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in content["metrics"]))
    (folder / CONFIG).write_text(content["config"])
    (folder / TIMINGS).write_text(json.dumps(content["timings"]))
    for step, (a, b) in content["sizes"].items():
        matrices = {f"to_q.lora_{one}.weight": np.full((2, 2), size, np.float32) for one, size in (("A", a), ("B", b))}
        write_tensors(folder / SaveSettings.name.format(step=step), matrices.items(), content["said"])
    if content["checkpoints"]:
        (folder / EVALUATION).parent.mkdir(exist_ok=True)
        (folder / EVALUATION).write_text(json.dumps(content["checkpoints"]))
    return folder


def _rounded(value: Any) -> Any:
    """With 5 digits of every number that is none of the whole ones."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) and not value.is_integer() else value


if __name__ == "__main__":
    print(record(Path(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:])))
