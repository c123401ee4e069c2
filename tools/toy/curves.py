"""The two curves of a pretraining run in one picture."""

import json
from pathlib import Path

from gm.pictures import running_mean


def plot_curves(folder: Path, target: Path) -> None:
    """`target`, a PNG: the error of `first_stage.jsonl` and the loss of `metrics.jsonl` below `folder`, with the time each
    took, over the updates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    parts = (
        ("first_stage.jsonl", "error", "VAE: mean absolute error"),
        ("metrics.jsonl", "loss", "UNet and text encoders: loss"),
    )
    for axes, (name, key, title) in zip(figure.subplots(1, 2), parts):
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        steps, values = ([record[field] for record in records] for field in ("step", key))
        axes.plot(steps, values, color="C0", alpha=0.25, linewidth=0.8)
        axes.plot(steps, running_mean(values), color="C0")
        minutes = sum(record["seconds"] for record in records) / 60
        axes.set(title=f"{title}, {minutes:.0f} min", xlabel="update", yscale="log")
    FigureCanvasAgg(figure).print_png(str(target))
