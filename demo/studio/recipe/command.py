"""A prepared training as files and words: its YAML, the checked configuration, and the command line of train_dreambooth.py.

The YAML says only what differs: `base` is the YAML of the model for the device. All of it is made anew from the visitor's settings,
so what is shown is what runs.
"""

import hashlib
import os
import re
import shlex
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, Sequence

import yaml

from gm import device
from gm.config.load import load_config
from gm.config.tree import read_tree
from gm.config.types import Config
from gm.errors import UserError
from gm.files import replacing
from studio.draft import Draft, Settings
from studio.models import Model
from studio.recipe import flags as f
from studio.recipe.tree import ROOT, TRAINS_TEXT, found, own_tree
from studio.visit import Studio
from studio.words import say

DEVICES = ("CPU", "Ascend", "GPU")
TRAIN = ROOT / "train_dreambooth.py"
TEXT_ENCODERS = ROOT / "configs" / "text_encoder_lora.yaml"
YAML, PHOTOS, PROMPTS = "recipe.yaml", "photos", "prompts.txt"  # names in a job's folder
CLASS_IMAGES = "class_images"  # a folder of runs, for all jobs
CACHES = {"--cache_dir": "encoded", "--compile_cache_dir": "graphs"}  # flag -> its folder in runs/caches


def trainable(studio: Studio, where: str = "") -> list[Model]:
    """The models that can be trained; `where`: on this device."""
    return [model for model in studio.models.values() if model.training and (not where or model.yaml(where))]


def model_of(studio: Studio, settings: Settings) -> Model:
    """The model that is trained: the chosen one, else the first whose weights are there. UserError where there is none."""
    models = trainable(studio)
    if not models:
        raise UserError(say("no model of this page can be trained: name a training YAML for one in demo/sampling.py"))
    chosen = [model for model in models if model.name == settings.model]
    return next(iter(chosen or [model for model in models if model.is_there] or models))


def device_of(settings: Settings) -> str:
    """Where to train: as chosen, else what is here."""
    return settings.device if settings.device in DEVICES else device.device_here()


def model_yaml(studio: Studio, settings: Settings) -> Path:
    """The training YAML of the model on this device. UserError where it has none."""
    model, where = model_of(studio, settings), device_of(settings)
    path = model.yaml(where)
    if path is None:
        raise UserError(
            say("{model} has no YAML for training on {device}: choose another device", model=model.name, device=where)
        )
    return Path(path) if Path(path).exists() else ROOT / path


def yaml_text(studio: Studio, settings: Settings, folder: Path) -> str:
    """The YAML of a job, to be written into `folder`: its base, and what differs from it."""
    return _text(studio, settings, own_tree(studio.draft, settings), folder)


def _text(studio: Studio, settings: Settings, tree: Mapping[str, Any], folder: Path) -> str:
    bases = [model_yaml(studio, settings)]
    if any(found(tree, key) is True for key in TRAINS_TEXT):
        bases.append(TEXT_ENCODERS)
    here = os.path.realpath(folder)
    named = [os.path.relpath(os.path.realpath(base), here) for base in bases]
    return yaml.safe_dump({"base": named, **tree}, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)


def config_of(studio: Studio, settings: Settings) -> Config:
    """The checked configuration. UserError with what does not go together."""
    folder = studio.draft.folder
    return _loaded(yaml_text(studio, settings, folder), folder)


def whole_tree(studio: Studio, settings: Settings) -> dict[str, Any]:
    """All values that count: of the model's YAML with what the visitor has set, whether it goes together or not."""
    folder = studio.draft.folder
    return _whole(yaml_text(studio, settings, folder), folder)


@lru_cache(maxsize=64)
def _loaded(text: str, folder: Path) -> Config:
    return _read(text, folder, load_config)


@lru_cache(maxsize=64)
def _whole(text: str, folder: Path) -> dict[str, Any]:
    return _read(text, folder, lambda path: read_tree(path, ()))


def _read(text: str, folder: Path, reader: Any) -> Any:
    """What the reader makes of a file with this text in `folder`, which its bases are relative to."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{hashlib.sha1(text.encode()).hexdigest()[:12]}.{threading.get_ident()}.yaml"
    try:
        path.write_text(text, encoding="utf-8")
        return reader(str(path))
    except UserError as error:
        raise UserError(str(error).replace(f"--config {path}", say("the recipe"))) from None
    finally:
        path.unlink(missing_ok=True)


def defaults_of(studio: Studio, settings: Settings, total_step: int) -> dict[str, str]:
    """Flags that the page gives where the visitor sets nothing: a LoRA and pictures about five times in a run."""
    often = str(max(1, -(-total_step // 5)))
    steps = model_of(studio, settings).flags.get("sample_step")
    return {
        "infer_during_train": "True",
        "infer_interval": often,
        "save_ckpt_interval": often,
        **({"sample_step": str(steps)} if steps else {}),
    }


def flags_of(studio: Studio, settings: Settings, total_step: int) -> dict[str, str]:
    """All flags that are given beside those of folders, prompts, model and device."""
    given = {**defaults_of(studio, settings, total_step), **settings.flags}
    given = {name: value for name, value in given.items() if name in f.acting(device_of(settings))}
    if given["infer_during_train"] == "False":
        given.pop("infer_interval")
    if given.get("evaluate_every"):
        features = given.get("features", "judge")
        given["features"] = features if features == "judge" else said_path(ROOT / features)
    else:
        given = {name: value for name, value in given.items() if name not in f.OF_EVALUATION}
    if not uses_class(settings):
        given |= {"prior_loss_weight": "0"}
        given.pop("num_class_images", None)
    usual = f.usual()
    return {name: value for name, value in given.items() if value != usual.get(name)}


def uses_class(settings: Settings) -> bool:
    """Whether the class is kept by images of it."""
    weight = settings.flags.get("prior_loss_weight", "1")
    return bool(settings.class_prompt.strip()) and not re.fullmatch(r"0*\.?0*", weight)


def words_of(studio: Studio, settings: Settings, folder: Path) -> list[str]:
    """The command after `python`, for a job in `folder`."""
    config = config_of(studio, settings)
    assert config.data is not None  # load_config demands it for training
    words: list[object] = [said_path(TRAIN), "--config", said_path(folder / YAML)]
    words += ["--weight", said_path(model_of(studio, settings).weight)]
    words += ["--instance_data_path", said_path(folder / PHOTOS)]
    if settings.instance_prompt.strip():
        words += ["--instance_prompt", settings.instance_prompt.strip()]
    if uses_class(settings):
        words += ["--class_data_path", said_path(class_folder(studio, settings, config))]
    if settings.class_prompt.strip() and (uses_class(settings) or settings.flags.get("evaluate_every")):
        words += ["--class_prompt", settings.class_prompt.strip()]
    given = flags_of(studio, settings, config.data.total_step)
    for name, value in given.items():
        words += [f"--{name}", value]
    if prompts_of(studio.draft) and given.get("infer_during_train") == "True":
        words += ["--infer_prompts", said_path(folder / PROMPTS)]
    for flag, name in CACHES.items():  # what is compiled and encoded serves a resumed run, and the next one
        words += [flag, said_path(studio.runs / "caches" / name)]
    words += ["--save_path", said_path(folder), "--device_target", device_of(settings)]
    return [str(word) for word in words]


def said_path(path: object) -> str:
    """A path as the command says it, which runs in the project's folder: relative where the page runs there as well."""
    real = Path(os.path.abspath(str(path)))
    return str(real.relative_to(ROOT)) if Path.cwd() == ROOT and real.is_relative_to(ROOT) else str(real)


def class_folder(studio: Studio, settings: Settings, config: Config) -> Path:
    """Where the class images of this prompt, model and size are, for all jobs that want the same."""
    assert config.data is not None
    prompt = settings.class_prompt.strip()
    same = repr((prompt, model_of(studio, settings).name, config.data.target_size, config.data.buckets))
    return studio.runs / CLASS_IMAGES / f"{slug(prompt)}_{hashlib.sha1(same.encode()).hexdigest()[:8]}"


def job_name(settings: Settings) -> str:
    """Of the job's folder: as the visitor calls it, or by the prompt."""
    return slug(settings.name.strip() or settings.instance_prompt)


def slug(text: str, longest: int = 40) -> str:
    """The text as a plain name of a folder."""
    return re.sub(r"[^\w]+", "_", text.lower()).strip("_")[:longest].strip("_") or "lora"


def prompts_of(draft: Draft) -> str:
    """The prompts of progress pictures, a line each, as the visitor has written them; empty: the prompt of the photos."""
    try:
        return (draft.folder / PROMPTS).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def keep_prompts(draft: Draft, text: str) -> None:
    """Keep what `prompts_of` gives."""
    draft.folder.mkdir(parents=True, exist_ok=True)
    with replacing(draft.folder / PROMPTS) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def shell_text(words: Sequence[str]) -> str:
    """The command for a terminal, a flag a line."""
    lines, flags = ["python " + words[0]], list(words[1:])
    while flags:
        lines.append("  " + " ".join([flags.pop(0), shlex.quote(flags.pop(0))]))
    return " \\\n".join(lines)
