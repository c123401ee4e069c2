"""The two curves of a pretraining run in one picture."""

import json
from pathlib import Path

import numpy as np


def plot_curves(folder: Path, target: Path) -> None:
    """`target`, a PNG: the error of `first_stage.jsonl` and the loss of `metrics.jsonl` below `folder`, with the time each
    took, over the updates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    parts = (("first_stage.jsonl", "error", "VAE: mean absolute error"), ("metrics.jsonl", "loss", "UNet and text encoders: loss"))
    for axes, (name, key, title) in zip(figure.subplots(1, 2), parts):
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        steps, values = np.array([record["step"] for record in records]), np.array([record[key] for record in records])
        window = min(50, len(values))
        axes.plot(steps, values, color="C0", alpha=0.25, linewidth=0.8)
        axes.plot(steps[window - 1 :], np.convolve(values, np.full(window, 1 / window), "valid"), color="C0")
        minutes = sum(record["seconds"] for record in records) / 60
        axes.set(title=f"{title}, {minutes:.0f} min", xlabel="update", yscale="log")
    FigureCanvasAgg(figure).print_png(str(target))
