"""OneTrainer's concepts -> photos, class images and captions: ConceptConfig of its modules/util/config, and mgds, its data loader."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from gm.config.bounds import MOST_REPEATS
from gm.errors import UserError
from gm.recipes.draft import DATASET, DIFFERS, TAKEN, UNSUPPORTED, Draft, Settings
from gm.recipes.onetrainer_words import CONCEPT, say_words
from gm.recipes.parts import put_caption
from gm.recipes.updates import Hints, Photos, photos_in

_BEGINNING = "concepts."
_LONGEST_PROMPTS = 1_000_000  # bytes of a file of prompts, of which the first line is read


@dataclass
class Concept:
    """A folder of photos, or of class images."""

    at: str  # what its names begin with
    settings: Settings
    photos: Photos = field(init=False)
    repeats: int = field(init=False)  # of each photo, here
    weight: float = field(init=False)
    prompt: Optional[str] = field(init=False)

    def __post_init__(self) -> None:
        self.weight = self.settings.number(f"{self.at}loss_weight", float, 1.0)

    def of(self, name: str, default: Any = None) -> Any:
        return self.settings.values.get(self.at + name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        return self.settings.flag(self.at + name, default)

    @property
    def path(self) -> str:
        return self.settings.text(f"{self.at}path") or "/path/to/photos"

    @property
    def kind(self) -> str:
        return str(self.of("type", "STANDARD")) if self.flag("enabled", True) else "off"


def put_concepts(settings: Settings, draft: Draft, hints: Hints) -> tuple[Photos, Optional[Photos]]:
    """The samples of an epoch: of photos, and of class images where there are some."""
    numbers = sorted({int(name.split(".")[1]) for name in settings.values if _is_of_concept(name)})
    concepts = [Concept(f"{_BEGINNING}{number}.", settings) for number in numbers]
    settings.taken("concepts", "none in this file")
    if numbers:
        settings.taken("concept_file_name", "its concepts are those below")
    settings.unsupported("concept_file_name", "not read: give that file behind this one, or --instance_data_path")
    own = [one for one in concepts if one.kind == "STANDARD"]
    classes = [one for one in concepts if one.kind == "PRIOR_PREDICTION"]
    if numbers and not own:
        raise UserError(f"{settings.where} has no concept of photos that is enabled: enable one whose type is STANDARD")
    for one in concepts:
        counted = photos_in(Path(one.path)) if one.kind != "STANDARD" or len(own) > 1 else None
        _count(one, settings, counted or hints.photos(one.path if one.kind == "STANDARD" else None))
    _put_photos(draft, own, classes)
    for one in concepts:
        _say_concept(settings, one, len(own) > 1 or any(c.weight != 1 for c in own))
    _put_captions(settings, draft, own)
    if not own:
        return hints.photos(), None
    return _together(own), _together(classes) if classes else None


def _is_of_concept(name: str) -> bool:
    return name.startswith(_BEGINNING) and name.split(".")[1].isdigit()


def _together(concepts: list[Concept]) -> Photos:
    counted = [one.photos for one in concepts]
    words = "; ".join(dict.fromkeys(one.words for one in counted))
    return Photos(sum(one.count for one in counted), sum(one.samples for one in counted), words)


def _count(one: Concept, settings: Settings, counted: Photos) -> None:
    """Its samples in an epoch, as mgds counts them, and how often each photo is repeated here."""
    balancing = settings.number(f"{one.at}balancing", float, 1.0)
    number = max(counted.count, 1)
    in_all = str(one.of("balancing_strategy", "REPEATS")) == "SAMPLES"
    samples = max(1, int(balancing) if in_all else math.floor(number * balancing))
    exact = samples / number
    one.repeats = min(max(1, round(exact)), MOST_REPEATS)
    one.photos = Photos(counted.count, samples, counted.words)
    words = f"{samples} samples an epoch; each photo {one.repeats} times in an epoch here"
    outcome = TAKEN if one.repeats == exact else DIFFERS
    settings.say(outcome, [f"{one.at}balancing", f"{one.at}balancing_strategy"], words)
    one.prompt = _prompt(one)


def _prompt(one: Concept) -> Optional[str]:
    """The first line of the file of prompts of a concept that has one."""
    path = str(one.of("text.prompt_path", ""))
    if one.of("text.prompt_source") != "concept" or not os.path.isfile(path) or os.path.getsize(path) > _LONGEST_PROMPTS:
        return None
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return None
    return lines[0] if lines else None


def _put_photos(draft: Draft, own: list[Concept], classes: list[Concept]) -> None:
    of_class = classes[0] if classes else None
    draft.flags["prior_loss_weight"] = of_class.weight if of_class else 0
    if len(own) == 1 and own[0].weight == 1:
        flags = {
            "instance_data_path": own[0].path,
            "instance_prompt": own[0].prompt,
            "train_data_repeat": own[0].repeats,
            "class_data_path": of_class.path if of_class else None,
            "class_prompt": of_class.prompt if of_class else None,
        }
        draft.flags |= {name: value for name, value in flags.items() if value is not None}
    elif own:
        draft.put(
            DATASET + "concepts",
            [_entry(one, classes[min(i, len(classes) - 1)] if classes else None) for i, one in enumerate(own)],
        )
    else:
        draft.flags["train_data_repeat"] = 1
    if classes:
        draft.flags["num_class_images"] = max(1, max(one.photos.count for one in classes))
        draft.notes.append(
            "Class images are learned as they are; OneTrainer's prior concepts keep what the base model predicts for them."
        )


def _entry(one: Concept, of_class: Optional[Concept]) -> dict[str, Any]:
    entry = {
        "instance_data_path": one.path,
        "instance_prompt": one.prompt,
        "repeats": one.repeats,
        "weight": one.weight if one.weight != 1 else None,
        "class_data_path": of_class.path if of_class else None,
        "class_prompt": of_class.prompt if of_class else None,
    }
    return {name: value for name, value in entry.items() if value is not None}


def _say_concept(settings: Settings, one: Concept, listed: bool) -> None:
    at, kind = one.at, one.kind
    if kind == "off":
        settings.taken(f"{at}enabled", "left out, there as here")
        settings.taken([name for name in settings.values if name.startswith(at)], "of a concept that is off")
        return
    if kind == "VALIDATION":
        settings.unsupported(f"{at}type", "left out: no photos are kept apart, --evaluate_every judges pictures instead")
        settings.taken([name for name in settings.values if name.startswith(at)], "of a concept that is left out")
        return
    settings.taken(f"{at}enabled", "it is trained on")
    if kind == "STANDARD":
        settings.taken(f"{at}type", "photos of a subject")
        settings.taken(f"{at}path", "concepts: instance_data_path" if listed else "--instance_data_path")
        settings.taken(f"{at}loss_weight", f"concepts: weight: {one.weight:g}" if listed else "1, as here")
    else:
        words = (
            "class images, as many as photos in each update; what they teach is the picture, not the base model's prediction"
        )
        settings.differs(f"{at}type", words)
        settings.taken(f"{at}path", "concepts: class_data_path" if listed else "--class_data_path")
        settings.taken(f"{at}loss_weight", f"--prior_loss_weight {one.weight:g}")
    if one.flag("include_subdirectories"):
        settings.unsupported(f"{at}include_subdirectories", "the photos of the folder itself: move the others into it")
    settings.off(f"{at}include_subdirectories")
    _say_source(settings, one, kind)
    if kind != "STANDARD":
        settings.taken(
            [name for name in settings.values if name.startswith(f"{at}text.tag_")], "the prompt of class images does not vary"
        )
        more = [f"{at}text.enable_tag_shuffling", f"{at}text.keep_tags_count", f"{at}text_variations"]
        settings.taken(more, "the prompt of class images does not vary")
    say_words(settings, CONCEPT, at)


def _say_source(settings: Settings, one: Concept, kind: str) -> None:
    name, source = f"{one.at}text.prompt_source", str(one.of("text.prompt_source", "sample"))
    prompt = "--instance_prompt" if kind == "STANDARD" else "--class_prompt"
    if kind != "STANDARD" and source != "concept":
        settings.unsupported(name, f"one prompt for all class images: give {prompt}")
    elif source == "sample":
        settings.taken(name, "captions: NAME.txt beside each photo; its first line, where it has several")
    elif source == "concept" and one.prompt:
        settings.differs(
            name, f"{prompt}: the first line of {one.of('text.prompt_path')}, where a line is drawn each time there"
        )
    elif source == "concept":
        settings.unsupported(name, f"{one.of('text.prompt_path')} is not there: give {prompt}")
    else:
        settings.unsupported(name, f"names of files are no prompts here: write NAME.txt beside each photo, or give {prompt}")


def _put_captions(settings: Settings, draft: Draft, own: list[Concept]) -> None:
    """Those of the first concept, for all."""
    if not own:
        return
    first = own[0]
    from_files = str(first.of("text.prompt_source", "sample")) == "sample"
    put_caption(draft, "extensions", [".txt"] if from_files else [])
    said = {one.at: _tags(settings, Draft() if one is not first else draft, one) for one in own}
    for at, values in said.items():
        if values != said[first.at]:
            names = [name for name in settings.values if name.startswith(f"{at}text.") and "tag" in name]
            draft.notes.append(
                f"Captions are varied as those of {first.path} are, those of {settings.values.get(at + 'path')} too."
            )
            settings.differs(names, "captions: as of the first concept, for all")
    for one in own:
        _say_tags(settings, one)


def _tags(settings: Settings, draft: Draft, one: Concept) -> dict[str, Any]:
    """The entries of `captions`."""
    shuffle, drops = one.flag("text.enable_tag_shuffling"), one.flag("text.tag_dropout_enable")
    keep = settings.number(f"{one.at}text.keep_tags_count", int, 1)
    probability, mode = (
        settings.number(f"{one.at}text.tag_dropout_probability", float, 0.0),
        str(one.of("text.tag_dropout_mode", "FULL")),
    )
    values: dict[str, Any] = {}
    if shuffle:
        values["shuffle"] = True
    if drops and probability:
        values["dropout" if mode == "FULL" else "tag_dropout"] = probability / 2 if mode == "RANDOM WEIGHTED" else probability
    if keep and (shuffle or "tag_dropout" in values):
        values["keep_tokens"] = keep
    if shuffle or "tag_dropout" in values:
        values["variants"] = min(1000, max(1, settings.number(f"{one.at}text_variations", int, 1)))
    delimiter = settings.text(f"{one.at}text.tag_delimiter") or ","
    if delimiter.strip() and delimiter != "," and values:
        values["separator"] = delimiter
    for key, value in values.items():
        put_caption(draft, key, value)
    return values


def _say_tags(settings: Settings, one: Concept) -> None:
    at, values = f"{one.at}text.", _tags(settings, Draft(), one)
    varied = "shuffle" in values or "tag_dropout" in values
    settings.taken(f"{at}enable_tag_shuffling", "captions: shuffle: True" if "shuffle" in values else "off, as here")
    words = f"captions: keep_tokens: {values.get('keep_tokens', 0)}" if varied else "acts where tags are varied alone"
    settings.taken(f"{at}keep_tags_count", words)
    settings.taken(f"{at}tag_delimiter", f"captions: separator: {values.get('separator', ',')!r}")
    words = f"captions: variants: {values['variants']}" if varied else "captions do not vary"
    settings.taken(f"{one.at}text_variations", words)
    names = [f"{at}tag_dropout_{name}" for name in ("enable", "probability", "mode")]
    mode, keep = str(one.of("text.tag_dropout_mode", "FULL")), settings.number(f"{at}keep_tags_count", int, 1)
    if "dropout" in values:
        words = f"captions: dropout: {values['dropout']:g}, of the whole caption"
        settings.say(DIFFERS if keep else TAKEN, names, words + (f"; there the first {keep} stay" if keep else ""))
    elif "tag_dropout" in values:
        words = f"captions: tag_dropout: {values['tag_dropout']:g}"
        weighted = mode == "RANDOM WEIGHTED"
        settings.say(
            DIFFERS if weighted else TAKEN,
            names,
            words + (", the mean of what rises from tag to tag there" if weighted else ""),
        )
    settings.taken(names, "off, as here")
    special = str(one.of("text.tag_dropout_special_tags_mode", "NONE"))
    outcome = UNSUPPORTED if special != "NONE" and ("dropout" in values or "tag_dropout" in values) else TAKEN
    settings.say(outcome, f"{at}tag_dropout_special_tags_mode", "all tags alike" if outcome == UNSUPPORTED else "off, as here")
