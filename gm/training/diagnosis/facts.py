"""What is known of a run that is over, read from its folder: what the rules look at. No MindSpore import.

metrics.jsonl must be there. config.yaml, timings.json, LoRA files and evaluation/checkpoints.json say more; where one of them is
missing or damaged, its facts are None or empty.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from gm.checkpoint.io import TensorFile, open_tensors
from gm.checkpoint.json_text import parse_json
from gm.config.load import load_config
from gm.config.types import Config
from gm.errors import UserError
from gm.evaluation.fidelity import Figures, way
from gm.training.checkpoints import SaveSettings
from gm.training.records import read_records

METRICS, TIMINGS, CONFIG = "metrics.jsonl", "timings.json", "config.yaml"
EVALUATION = Path("evaluation") / "checkpoints.json"
MODULES = 60  # of a LoRA that are looked at: those of all depths, and a large file is not read whole


@dataclass(frozen=True)
class Evaluated:
    """The figures of a checkpoint."""

    step: int
    figures: Figures
    score: Optional[float] = None


@dataclass(frozen=True)
class Evaluation:
    """evaluation/checkpoints.json."""

    real: Figures  # of real pictures
    base: Figures  # of the base model
    points: tuple[Evaluated, ...]  # by step, at least one
    choice: Optional[Evaluated] = None  # the checkpoint that was named the best
    reason: str = ""

    @property
    def last(self) -> Evaluated:
        return self.points[-1]

    def come(self, point: Evaluated) -> Optional[float]:
        """How far the subject is from the base model (0) to real pictures (1)."""
        return way(self.base.subject, point.figures.subject, self.real.subject)

    @property
    def gain(self) -> tuple[float, int]:
        """How much of that way the last checkpoint has come since the one before, and since which step; 0 where it is alone."""
        before = self.points[max(0, len(self.points) - 2)]
        return (self.come(self.last) or 0.0) - (self.come(before) or 0.0), before.step

    def latest(self, good: Callable[[Evaluated], bool]) -> Optional[Evaluated]:
        """The last checkpoint that is good."""
        return next((point for point in reversed(self.points) if good(point)), None)


@dataclass(frozen=True)
class Facts:
    """Of one run. The curves are (n,), one number an update; NaN where there is none."""

    steps: np.ndarray  # numbers of the updates, from 1
    photos: np.ndarray  # mean loss of the photos
    classes: np.ndarray  # mean loss of the class images
    norms: np.ndarray  # of the gradient, before it is clipped
    rates: np.ndarray  # learning rate
    scales: np.ndarray  # loss scale
    skipped: np.ndarray  # updates that were skipped so far
    sizes: np.ndarray  # Prodigy's step size d
    damaged: int = 0  # lines that could not be read
    ended: bool = False  # whether the run came to its end
    config: Optional[Config] = None
    said: Mapping[str, str] = field(default_factory=dict)  # metadata of the newest LoRA file
    moved: Optional[float] = None  # how far it has come from its start, where B is 0: the size of B over that of A
    growth: Optional[float] = None  # B grows as the updates to this power: 1 straight on, 0.5 at random
    seconds: Mapping[str, float] = field(default_factory=dict)  # part of the run -> what it took
    peak_gb: Optional[float] = None  # largest memory of the device that was in use
    device_gb: Optional[float] = None  # memory that the device has
    evaluation: Optional[Evaluation] = None

    @property
    def updates(self) -> int:
        """The number of the last."""
        return int(self.steps[-1])

    @property
    def total(self) -> Optional[int]:
        """Updates that there were to be."""
        return self.config.data.total_step if self.config and self.config.data else None

    @property
    def come(self) -> Optional[float]:
        """How far the subject came in the end, from the base model (0) to real pictures (1)."""
        return self.evaluation.come(self.evaluation.last) if self.evaluation else None

    def number(self, name: str) -> Optional[float]:
        """A number of the LoRA's metadata."""
        try:
            value = float(self.said[name])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) else None


def read_facts(run: Path, evaluation: Optional[Path] = None, device_gb: Optional[float] = None) -> Facts:
    """The facts of the run in folder `run`. `evaluation`: the folder of checkpoints.json where it is not the run's own.

    Raises UserError when there is no folder, no metrics.jsonl, or no line of it that is one; and for a checkpoints.json that was
    asked for and is none.
    """
    records, damaged = _records(run)
    curves = _curves(records)
    loras = lora_files(run)
    said, now = look_at(loras[max(loras)]) if loras else ({}, None)
    timings = _mapping(run / TIMINGS)
    seconds = timings.get("seconds")
    return Facts(
        **curves,
        damaged=damaged,
        ended=bool(timings),
        config=_config(run),
        said=said,
        moved=now.b / now.a if now else None,
        growth=_growth(loras, now),
        seconds=_numbers(seconds) if isinstance(seconds, dict) else {},
        peak_gb=_numbers(timings).get("peak_device_memory_gb"),
        device_gb=device_gb,
        evaluation=_evaluation(run, evaluation, int(curves["steps"][-1])),
    )


def _records(run: Path) -> tuple[list[dict], int]:
    if not run.is_dir():
        what = "is a file" if run.exists() else "does not exist"
        raise UserError(f"{run} {what}: give the folder of a run, its --save_path")
    path = run / METRICS
    if not path.is_file():
        raise UserError(
            f"{run} holds no {METRICS}, which a run writes from its first update on: give the --save_path of a run"
        )
    try:
        records, damaged = read_records(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from None
    if not records:
        raise UserError(f"{path} holds no update ({damaged} lines that are none): give a run that has trained")
    return records, damaged


def _curves(records: Sequence[dict]) -> dict[str, np.ndarray]:
    names = {
        "steps": "step",
        "photos": "instance_loss",
        "classes": "class_loss",
        "norms": "grad_norm",
        "rates": "lr",
        "scales": "loss_scale",
        "skipped": "skipped",
        "sizes": "d",
    }
    if not any("instance_loss" in record for record in records):
        names["photos"] = "loss"
    return {name: np.array([_number(record.get(key)) for record in records]) for name, key in names.items()}


def _number(value: object) -> float:
    """NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # a whole number with hundreds of digits
        return math.nan


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Those of them that are numbers, none of them below 0."""
    found = {name: _number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value >= 0}


def _config(run: Path) -> Optional[Config]:
    path = run / CONFIG
    with suppress(UserError):
        return load_config(str(path), training=True) if path.is_file() else None
    return None


def _mapping(path: Path) -> dict[str, object]:
    """The JSON of a file; empty where there is none, or something else."""
    with suppress(OSError, ValueError):
        found = parse_json(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def lora_files(run: Path) -> dict[int, Path]:
    """Updates -> the LoRA file after them."""
    before, after = SaveSettings.name.split("{step}")
    names = {path.name[len(before) : -len(after)]: path for path in run.glob(f"{before}*{after}")}
    return {int(number): path for number, path in names.items() if number.isascii() and number.isdecimal()}


@dataclass(frozen=True)
class Sizes:
    """Of a LoRA's matrices: the median over modules of their root mean squares."""

    a: float
    b: float


def look_at(path: Path) -> tuple[dict[str, str], Optional[Sizes]]:
    """What a LoRA file says of itself, and its sizes; nothing where it cannot be read."""
    said: dict[str, str] = {}
    with suppress(UserError), open_tensors(path) as file:
        said = dict(file.metadata)
        return said, _sizes(file)
    return said, None


def _sizes(file: TensorFile) -> Optional[Sizes]:
    pairs = [(name, name.replace(".lora_A.", ".lora_B.")) for name in file.names if ".lora_A." in name]
    pairs = [pair for pair in pairs if pair[1] in file][:: max(1, len(pairs) // MODULES)]
    found = [[_root_mean_square(file.read(name)) for name in pair] for pair in pairs]
    if not found:
        return None
    a, b = np.median(np.array(found), 0)
    return Sizes(float(a), float(b)) if a > 0 else None


def _root_mean_square(matrix: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(matrix, dtype=np.float64))))


def _growth(loras: Mapping[int, Path], now: Optional[Sizes]) -> Optional[float]:
    """From the LoRA file nearest to half of the updates on; None where there is none between a quarter and three quarters."""
    last = max(loras, default=0)
    between = [step for step in loras if last / 4 <= step <= 3 * last / 4]
    if now is None or not between:
        return None
    half = min(between, key=lambda step: abs(step - last / 2))
    then = look_at(loras[half])[1]
    return math.log(now.b / then.b) / math.log(last / half) if then and then.b > 0 and now.b > 0 else None


def _evaluation(run: Path, given: Optional[Path], updates: int) -> Optional[Evaluation]:
    path = given / EVALUATION.name if given is not None else run / EVALUATION
    content = _mapping(path)
    try:
        return _read_evaluation(content, updates)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        if given is None:
            return None
        what = f"no {path.name}" if not path.exists() else f"a {path.name} of something else than this run's checkpoints"
        raise UserError(
            f"--evaluation {given} holds {what}: give the folder that was the --output of tools/evaluate.py --checkpoints"
        ) from None


def _read_evaluation(content: Mapping, updates: int) -> Evaluation:
    """Raises KeyError, TypeError or ValueError where it is none."""
    points = [_evaluated(point) for point in content["steps"]]
    points = sorted((point for point in points if 0 < point.step <= updates), key=lambda point: point.step)
    if not points:
        raise ValueError("no checkpoint")
    chosen = content.get("choice")
    choice = next((point for point in points if chosen and point.step == chosen["step"]), None)
    reason = str(chosen.get("reason", "")) if choice else ""
    return Evaluation(_figures(content["real"]), _figures(content["base"]), tuple(points), choice, reason)


def _evaluated(point: Mapping) -> Evaluated:
    score = _number(point.get("score"))
    return Evaluated(int(point["step"]), _figures(point["figures"]), None if math.isnan(score) else score)


def _figures(given: Mapping) -> Figures:
    values = {one.name: _number(given.get(one.name)) for one in fields(Figures)}
    if math.isnan(values["subject"]):
        raise ValueError("no subject fidelity")
    return Figures(**{name: None if math.isnan(value) else value for name, value in values.items()})
