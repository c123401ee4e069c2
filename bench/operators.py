"""Where the time of a training step goes, by operator: MindSpore's own profiler around the real command.

Seconds are those of the kernels; when several run at once, they add up to more than the step.
"""

import json
import re
import shutil
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Sequence


@dataclass(frozen=True)
class Shares:
    """Seconds of a steady step."""

    operators: dict[str, float]  # operator -> seconds, forward and backward
    step: float  # of the whole step in the same run, by the clock

    def largest(self, count: int) -> list[str]:
        """The operators that take most."""
        return sorted(self.operators, key=lambda name: -self.operators[name])[:count]


def profile_step(train: Callable[[Mapping[str, str]], Sequence[float]], folder: Path) -> Shares:
    """`train` runs the command with these environment variables and gives the seconds of its steps."""
    shutil.rmtree(folder, ignore_errors=True)
    options = {"start": True, "output_path": str(folder), "activities": ["CPU"], "profiler_level": "Level0"}
    steps = train({"MS_PROFILER_OPTIONS": json.dumps(options)})
    (path,) = folder.rglob("cpu_op_execute_timestamp_*.txt")
    return read(path.read_text(), steps)


def read(text: str, steps: Sequence[float]) -> Shares:
    """From the profiler's lines `name;device;start,milliseconds,thread start,milliseconds,thread ...`."""
    seconds: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        name, _, runs = line.split(";")
        taken = [float(run.split(",")[1]) / 1e3 for run in runs.split()]
        each, rest = divmod(len(taken), len(steps))
        if rest or not each:  # it does not belong to the step
            continue
        kind = re.sub(r"-op\d+$", "", name.rpartition("/")[2])
        seconds[kind] += sum(taken[each:]) / (len(steps) - 1)
    return Shares(dict(seconds), statistics.median(steps[1:]))


def table(shares: Shares, count: int = 12) -> str:
    """The largest, Markdown."""
    whole = sum(shares.operators.values())
    lines = ["| operator | seconds | share |", "|---|---|---|"]
    for name in shares.largest(count):
        lines.append(f"| {name} | {shares.operators[name]:.3f} | {shares.operators[name] / whole:.1%} |")
    lines.append(f"| all operators | {whole:.3f} | |")
    lines.append(f"| the step by the clock, under the profiler | {shares.step:.3f} | |")
    return "\n".join(lines)


def draw(shares: Shares, target: Path, count: int = 15) -> None:
    """Bars of the largest."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = shares.largest(count)[::-1]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(names, [shares.operators[name] for name in names])
    axes.set(xlabel="seconds of one training step", title=f"A training step of {shares.step:.2f} s by operator")
    axes.grid(axis="x", alpha=0.3)
    FigureCanvasAgg(figure).print_png(str(target))
