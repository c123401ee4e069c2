"""What an importer leaves behind: the YAML, the command that runs it, and the table of what became of every setting."""

import os
import shlex
from collections import Counter
from pathlib import Path
from typing import Any, Mapping, Sequence

import yaml

from gm.config.load import load_config
from gm.console import table
from gm.errors import UserError
from gm.files import replacing
from gm.recipes.draft import DATASET, DIFFERS, OUTCOMES, TAKEN, UNKNOWN, UNSUPPORTED, Draft, Row
from gm.recipes.updates import has_prompts

PLACES = {  # flags that a command must have, and what stands there while nobody has said it
    "instance_data_path": "/path/to/photos",
    "instance_prompt": "A photo of a sks dog",
    "class_data_path": "/path/to/class_images",
    "class_prompt": "A photo of a dog",
}
_ORDER = ("instance_data_path", "instance_prompt", "train_data_repeat", "class_data_path", "class_prompt", "prior_loss_weight")
COLUMNS = ("setting", "given", "what became of it", "here")


def yaml_text(draft: Draft, base: str, output: Path, about: str) -> str:
    """The YAML, which says only what differs from `base`; `about`: the comment at its head."""
    relative = os.path.relpath(base, output.parent)
    tree = {"base": relative, **draft.tree}
    text = yaml.safe_dump(plain(tree), sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
    head = "".join(f"# {line}".rstrip() + "\n" for line in about.splitlines())
    return head + text


def plain(value: Any) -> Any:
    """Without what YAML needs anchors or tags for."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def command(draft: Draft, config: str, weight: str, device: str) -> str:
    """The command that trains it, a flag a line; what nobody has said stands there as an example."""
    flags = dict(draft.flags)
    start_from = flags.pop("start_from", None)
    base = flags.pop("weight", None)
    weight = base if base and Path(base).exists() else weight
    given: dict[str, Any] = {"config": config, "weight": f"{weight},{start_from}" if start_from else weight}
    if "concepts" not in dataset_of(draft):
        needed = dict(PLACES)
        if flags.get("prior_loss_weight") == 0:
            needed = {name: words for name, words in needed.items() if not name.startswith("class_")}
        if has_prompts(flags.get("instance_data_path")):
            needed.pop("instance_prompt")
        flags = {**needed, **flags}
    given |= {name: flags.pop(name) for name in _ORDER if name in flags}
    given |= flags | {"device_target": device}
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None]
    return "python train_dreambooth.py " + " \\\n  ".join(words)


def dataset_of(draft: Draft) -> dict[str, Any]:
    """The entries of the photos' section."""
    return draft.tree.get("data", {}).get("dataset_config", {}).get("params", {})


def counted(rows: Sequence[Row]) -> str:
    """How many settings had which outcome, in words."""
    numbers = Counter(row.outcome for row in rows)
    return ", ".join(f"{numbers[outcome]} {outcome}" for outcome in OUTCOMES if numbers[outcome] or outcome == UNKNOWN)


def sorted_rows(rows: Sequence[Row]) -> list[Row]:
    """What needs eyes first: unknown, not supported, differs, taken over."""
    order = (UNKNOWN, UNSUPPORTED, DIFFERS, TAKEN)
    return sorted(rows, key=lambda row: order.index(row.outcome))


def table_text(rows: Sequence[Row]) -> str:
    """For a terminal."""
    return table(COLUMNS, ((row.name, row.given, row.outcome, row.words) for row in sorted_rows(rows)), text=len(COLUMNS))


def markdown(rows: Sequence[Row], notes: Sequence[str], empty: Sequence[str], about: str, run: str) -> str:
    """The report, as Markdown."""
    lines = [
        about,
        "",
        "    " + run.replace("\n", "\n    "),
        "",
        *(f"* {note}" for note in notes),
        "",
        counted(rows) + ".",
        "",
    ]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in sorted_rows(rows):
        cells = (f"`{row.name}`", row.given, row.outcome, row.words)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if empty:
        lines += ["", f"Left empty in the source: {', '.join(empty)}."]
    return "\n".join(lines) + "\n"


def write_checked(text: str, output: Path, recipe: str) -> None:
    """The YAML, which appears when it has been read as training would read it. UserError names what it would refuse."""
    with replacing(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        try:
            load_config(str(unfinished))
        except UserError as error:
            reason = str(error).replace(str(unfinished), str(output))
            raise UserError(f"{recipe} asks for what does not go together here: {reason}") from None


def write_new(path: Path, text: str) -> None:
    """A text file, which appears when it is whole."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def scaled_to(draft: Draft, size: int) -> None:
    """The recipe at other pixels: shapes are in proportion to the size, so their own bounds are left out."""
    params = dataset_of(draft)
    given = params.get("target_size")
    draft.put(DATASET + "target_size", size)
    if "buckets" in params:
        buckets = params["buckets"]
        for name in ("bucket_reso_steps", "min_bucket_reso", "max_bucket_reso"):
            buckets.pop(name, None)
    if given and given != size:
        draft.notes.append(f"--size {size} instead of {given} pixels; bounds of shapes are in proportion to it.")
