"""The evaluation as a table (Markdown), as JSON and as a plot. The figures are fidelity.py."""

import json
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Mapping, Optional

from gm.evaluation.fidelity import Figures, way
from gm.files import replacing
from gm.pictures import writing

REAL, BASE = "real pictures", "base model"

COLUMNS = {  # field of Figures -> title
    "subject": "subject fidelity",
    "prompt": "prompt fidelity",
    "recognised": "recognised",
    "pres": "PRES (lower is better)",
    "div": "DIV",
    "div_subject": "DIV, one prompt",
}


def table(rows: Mapping[str, Figures], scores: Mapping[str, float] = {}) -> str:
    """A Markdown table; a column in which nothing has a figure is left out. `scores`: row -> score of chooser.py, a last column."""
    columns = {
        field: title for field, title in COLUMNS.items() if any(_value(row, field) is not None for row in rows.values())
    }
    titles = [*columns.values(), *(["score"] if scores else [])]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, row in rows.items():
        cells = [*(_value(row, field) for field in columns), *([scores.get(name)] if scores else [])]
        lines.append(f"| {name} | " + " | ".join("-" if cell is None else f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join(lines)


def against_base(rows: Mapping[str, Figures]) -> dict[str, dict[str, Optional[float]]]:
    """LoRA -> how far its subject fidelity came from the base model's (0) to that of real pictures (1), and its prompt
    fidelity over that of the base model."""
    real, base = rows[REAL], rows[BASE]
    result = {}
    for name, row in rows.items():
        if name not in (REAL, BASE):
            result[name] = {
                "way from base to real": way(base.subject, row.subject, real.subject),
                "prompt fidelity over base": row.prompt / base.prompt if base.prompt else None,
            }
    return result


def sentences(rows: Mapping[str, Figures]) -> str:
    """`against_base`, a line for each LoRA."""
    lines = []
    for name, values in against_base(rows).items():
        come, ratio = values["way from base to real"], values["prompt fidelity over base"]
        words = [] if come is None else [f"subject fidelity {come:.0%} of the way from base to real"]
        words += [] if ratio is None else [f"prompt fidelity {ratio:.2f} of the base model's"]
        lines.append(f"{name}: {', '.join(words)}")
    return "\n".join(lines)


def write_json(path: Path, rows: Mapping[str, Figures], settings: Mapping[str, object], by_prompt: Mapping) -> None:
    """Everything, in full precision; the file appears when it is complete."""
    content = {
        "rows": {name: asdict(row) for name, row in rows.items()},
        "against base": against_base(rows),
        "by prompt": by_prompt,
        "settings": settings,
    }
    write_text(path, json.dumps(content, indent=1, default=str))


def write_text(path: Path, text: str) -> None:
    """The file appears when it is complete."""
    with writing(path), replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")


def draw(
    path: Path, rows: Mapping[str, Figures], spread: Optional[Mapping[str, Mapping[str, tuple[float, float]]]] = None
) -> None:
    """A panel for each figure: a bar for each LoRA, lines for the base model and for real pictures.

    `spread`: row -> field of Figures -> (lowest, highest), where a row is the mean of several.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fields = [field for field in ("subject", "prompt", "pres", "div") if _value(rows[BASE], field) is not None]
    names = [name for name in rows if name not in (REAL, BASE)]
    figure = Figure(figsize=(3.2 * len(fields), 3.4), layout="constrained")
    for axes, field in zip(figure.subplots(1, len(fields), squeeze=False)[0], fields):
        values = [_value(rows[name], field) for name in names]
        axes.bar(range(len(names)), values, color=[f"C{i}" for i in range(len(names))], width=0.7)
        for i, name in enumerate(names):
            low, high = (spread or {}).get(name, {}).get(field, (values[i], values[i]))
            if high > low:
                axes.errorbar(i, values[i], [[values[i] - low], [high - values[i]]], color="black", capsize=4)
            axes.annotate(
                f"{values[i]:.3f}", (i, max(high, values[i])), (0, 2), textcoords="offset points", ha="center", fontsize=7
            )
        for name, style in ((BASE, "--"), (REAL, ":")):
            value = _value(rows[name], field) if name in rows else None
            if value is not None:
                axes.axhline(value, color="black", linestyle=style, linewidth=1, label=f"{name} {value:.3f}")
        axes.set_xticks(range(len(names)), [fill(name, max(8, 42 // len(names))) for name in names], fontsize=7)
        axes.set_title(COLUMNS[field], fontsize=10)
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
        axes.legend(frameon=False, fontsize=7, loc="upper left")
    with writing(path), replacing(path) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))


def _value(row: Figures, field: str) -> Optional[float]:
    return getattr(row, field)
