"""The recipe of another trainer, from uploaded files into a visitor's draft: as tools/import_recipe.py does it, but nothing that the
recipe names is read or written: its photos are those of the draft, its weights those of the chosen model."""

import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import yaml

from gm.config.table import CLIP_LORA, OPEN_CLIP_LORA, RESIZE
from gm.config.yaml_text import read_yaml
from gm.errors import UserError
from gm.files import replacing
from gm.options.parser import as_given, reader_of
from gm.options.train import TrainOptions
from gm.recipes.command_line import command_of
from gm.recipes.draft import DATASET, DENOISER, EMBEDDERS, LOSS, TIMESTEPS, UNET, Row
from gm.recipes.draft import Draft as Written
from gm.recipes.files import LARGEST, WEIGHTS, read_recipe
from gm.recipes.updates import Hints
from gm.recipes.written import plain, scaled_to, sorted_rows
from gm.texts import read_text
from studio.draft import Draft, Settings
from studio.recipe import command
from studio.recipe import flags as f
from studio.recipe.tree import found, put, used_photos
from studio.visit import Studio
from studio.words import say

SUFFIXES = (".json", ".toml", ".yaml", ".yml", ".txt", ".sh", ".md", ".bat", *WEIGHTS)
FILE, REPORT = "imported.yaml", "imported.json"  # in the draft's folder
ASSUMED = 20  # photos, where there are none yet
ELSEWHERE = "/path/to/another/machine"  # in place of what leads to a file here


@dataclass(frozen=True)
class Report:
    """What became of a recipe."""

    name: str  # of the file
    tool: str
    rows: tuple[Row, ...] = ()  # what needs eyes first
    notes: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)  # what it asked of the command


def take_over(studio: Studio, draft: Draft, files: Sequence[tuple[str, bytes]], own_size: bool) -> Report:
    """Read the uploaded files (name, content), the recipe first, and make it the draft's. `own_size`: photos at the size of the model's
    YAML. UserError for what is no recipe, or does not go together here; then the draft is as it was."""
    settings = draft.settings()
    photos = len(used_photos(draft, settings))
    with tempfile.TemporaryDirectory() as folder:
        paths = [_kept(Path(folder), number, name, content) for number, (name, content) in enumerate(files)]
        _refuse_other_files(paths)
        try:
            recipe = read_recipe(paths, Hints(num_photos=photos or ASSUMED))
        except UserError as error:
            raise UserError(_named(str(error), paths, files)) from None
    written = Written(tree=_parts_of(read_yaml(recipe.own, "")), flags={}) if recipe.own is not None else recipe.draft
    if own_size:
        scaled_to(written, _size_of_model(studio, settings))
    notes = list(written.notes)
    if not photos:
        notes.insert(0, say("There are no photos yet: {n} are assumed where epochs had to be counted.", n=ASSUMED))
    changes = {
        **_prompts(settings, written.flags),
        "flags": _flags(written.flags),
        "overrides": {},
        "preset": "",
        "recipe": FILE,
    }
    text = yaml.safe_dump(plain(written.tree), sort_keys=False, allow_unicode=True, default_flow_style=False)
    _adopt(studio, draft, replace(settings, **changes), text, files[0][0])
    draft.change(**changes)
    report = Report(files[0][0], recipe.tool, tuple(sorted_rows(recipe.settings.rows)), tuple(notes), changes["flags"])
    with replacing(draft.folder / REPORT) as unfinished:
        unfinished.write_text(json.dumps(asdict(report), ensure_ascii=False), encoding="utf-8")
    return report


def report_of(draft: Draft) -> Optional[Report]:
    """What became of the recipe that was imported last."""
    try:
        content = json.loads((draft.folder / REPORT).read_text(encoding="utf-8"))
        rows = tuple(Row(**row) for row in content["rows"])
        return Report(content["name"], content["tool"], rows, tuple(content["notes"]), dict(content["flags"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _kept(folder: Path, number: int, name: str, content: bytes) -> Path:
    """The upload under a plain name; its own decides only which kind it is."""
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            say("{name} is no recipe: give a file that ends in {suffixes}", name=name, suffixes=", ".join(SUFFIXES))
        )
    if suffix not in WEIGHTS and len(content) > LARGEST:
        raise UserError(say("{name} is too large for a recipe: at most {most} bytes", name=name, most=LARGEST))
    path = folder / f"recipe_{number}{suffix}"
    path.write_bytes(content)
    return path


def _refuse_other_files(paths: Sequence[Path]) -> None:
    """Nothing in the files may lead to a file of this machine: what is a path here becomes one that is not."""
    for path in paths:
        if path.suffix == ".json":
            _rewritten(path, json.loads, json.dumps)
        elif path.suffix in (".yaml", ".yml"):
            _rewritten(path, partial(read_yaml, where=path.name), yaml.safe_dump)
        elif path.suffix not in (".toml", *WEIGHTS) and len(paths) == 1:
            _, values = command_of(read_text(path, path.name, LARGEST))
            named = [str(values[name]) for name in ("config_file", "dataset_config") if name in values]
            if named:
                raise UserError(
                    say("the command reads {file}: give that file as well, or instead of the command", file=", ".join(named))
                )


def _rewritten(path: Path, read: Any, write: Any) -> None:
    try:
        tree = read(read_text(path, path.name, LARGEST))
    except (UserError, ValueError, RecursionError):
        return  # read_recipe says what is wrong with it
    path.write_text(write(_without_paths(tree)), encoding="utf-8")


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    leads_here = isinstance(value, str) and "\0" not in value and os.path.lexists(value)
    return ELSEWHERE if leads_here else value


def _named(sentence: str, paths: Sequence[Path], files: Sequence[tuple[str, bytes]]) -> str:
    """A message with the names that the visitor knows."""
    for path, (name, _) in zip(paths, files):
        sentence = sentence.replace(str(path), name).replace(path.name, name)
    return sentence


def _parts_of(whole: Any) -> dict[str, Any]:
    """Of the whole YAML of a run of this suite what is a recipe: not its networks, and not where its photos were."""
    tree: dict[str, Any] = {key: whole[key] for key in ("optim", "data") if isinstance(whole.get(key), dict)}
    for key in (LOSS.rstrip("."), TIMESTEPS.rstrip("."), DENOISER + "weighting_config"):
        if found(whole, key) is not None:
            put(tree, key, found(whole, key))
    for name, value in (found(whole, UNET.rstrip(".")) or {}).items():
        if name.startswith("lora_"):
            put(tree, UNET + name, value)
    for number, embedder in enumerate(found(whole, EMBEDDERS.rstrip(".")) or ()):
        if embedder.get("target") in (CLIP_LORA, OPEN_CLIP_LORA):
            own = {name: value for name, value in (embedder.get("params") or {}).items() if name.startswith("lora_")}
            put(tree, f"{EMBEDDERS}{number}", {"is_trainable": True, "target": embedder["target"], "params": own})
    for transform in found(tree, DATASET + "transforms") or ():
        if transform.get("target") == RESIZE:
            transform["params"] = {**transform.get("params", {}), "size": "${" + DATASET + "target_size}"}
    return tree


def _size_of_model(studio: Studio, settings: Settings) -> int:
    config = command.config_of(studio, replace(settings, preset="", recipe="", overrides={}))
    assert config.data is not None  # load_config demands it for training
    return config.data.target_size


def _prompts(settings: Settings, flags: Mapping[str, Any]) -> dict[str, str]:
    """The recipe's prompts, where the visitor has said none."""
    names = [name for name in ("instance_prompt", "class_prompt") if flags.get(name) and not getattr(settings, name)]
    return {name: str(flags[name]) for name in names}


def _flags(given: Mapping[str, Any]) -> dict[str, str]:
    """Those that the page offers, with values that the command takes."""
    kept = {}
    for name, value in given.items():
        if name not in f.known() or name == "features" or value is None:
            continue
        text = as_given(value)
        try:
            reader_of(TrainOptions, name)(text)
        except (ValueError, UserError):
            continue
        kept[name] = text
    return kept


def _adopt(studio: Studio, draft: Draft, settings: Settings, text: str, name: str) -> None:
    """The YAML becomes the draft's when training would take it. UserError names what it would refuse."""
    draft.folder.mkdir(parents=True, exist_ok=True)
    path, before = draft.folder / FILE, draft.folder / f"before_{FILE}"
    if path.exists():
        shutil.copyfile(path, before)
    try:
        with replacing(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
        command.config_of(studio, settings)
    except UserError as error:
        path.unlink(missing_ok=True)
        if before.exists():
            os.replace(before, path)
        reason = re.sub(r"^[^:]*: ", "", str(error))
        raise UserError(say("{name} asks for what does not go together here: {reason}", name=name, reason=reason)) from None
    finally:
        before.unlink(missing_ok=True)
