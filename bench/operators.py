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

    forward: dict[str, float]  # operator -> seconds
    backward: dict[str, float]
    step: float  # of the whole step in the same run, by the clock

    def largest(self, count: int) -> list[str]:
        """The operators that take most."""
        names = set(self.forward) | set(self.backward)
        return sorted(names, key=lambda name: -self.forward.get(name, 0) - self.backward.get(name, 0))[:count]


def profile_step(train: Callable[[Mapping[str, str]], Sequence[float]], folder: Path) -> Shares:
    """`train` runs the command with these environment variables and gives the seconds of its steps."""
    shutil.rmtree(folder, ignore_errors=True)
    options = {"start": True, "output_path": str(folder), "activities": ["CPU"], "profiler_level": "Level0"}
    steps = train({"MS_PROFILER_OPTIONS": json.dumps(options)})
    (path,) = folder.rglob("cpu_op_execute_timestamp_*.txt")
    return read(path.read_text(), steps)


def read(text: str, steps: Sequence[float]) -> Shares:
    """From the profiler's lines `name;device;start,milliseconds,thread start,milliseconds,thread ...`."""
    times: tuple[dict, dict] = (defaultdict(float), defaultdict(float))
    for line in text.splitlines():
        name, _, runs = line.split(";")
        taken = [float(run.split(",")[1]) / 1e3 for run in runs.split()]
        each, rest = divmod(len(taken), len(steps))
        if rest or not each:  # it does not belong to the step
            continue
        kind = re.sub(r"-op\d+$", "", name.rpartition("/")[2])
        times["Gradients/" in name][kind] += sum(taken[each:]) / (len(steps) - 1)
    return Shares(dict(times[0]), dict(times[1]), statistics.median(steps[1:]))


def table(shares: Shares, count: int = 12) -> str:
    """The largest, Markdown."""
    whole = sum(shares.forward.values()) + sum(shares.backward.values())
    lines = ["| operator | forward, s | backward, s | share |", "|---|---|---|---|"]
    for name in shares.largest(count):
        forward, backward = shares.forward.get(name, 0.0), shares.backward.get(name, 0.0)
        lines.append(f"| {name} | {forward:.3f} | {backward:.3f} | {(forward + backward) / whole:.1%} |")
    lines.append(f"| all operators | {sum(shares.forward.values()):.3f} | {sum(shares.backward.values()):.3f} | |")
    lines.append(f"| the step by the clock, under the profiler | {shares.step:.3f} | | |")
    return "\n".join(lines)


def draw(shares: Shares, target: Path, count: int = 15) -> None:
    """Bars of the largest, forward and backward."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = shares.largest(count)[::-1]
    forward = [shares.forward.get(name, 0.0) for name in names]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(names, forward, color="tab:blue", label="forward")
    axes.barh(names, [shares.backward.get(name, 0.0) for name in names], left=forward, color="tab:orange", label="backward")
    axes.set(xlabel="seconds of one training step", title=f"A training step of {shares.step:.2f} s by operator")
    axes.grid(axis="x", alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(target))
