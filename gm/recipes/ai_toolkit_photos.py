"""Photos, class images, captions and masks of ai-toolkit's datasets -> this suite's."""

from dataclasses import dataclass
from typing import Any, Optional

from gm.config.bounds import MOST_REPEATS
from gm.errors import UserError
from gm.recipes.ai_toolkit_words import DATASETS, say_words
from gm.recipes.draft import DATASET, DIFFERS, TAKEN, UNSUPPORTED, Draft, Settings
from gm.recipes.parts import put_caption

_BEGINNING = "datasets."
_VARIED = ("caption_ext", "caption_type", "shuffle_tokens", "token_dropout_rate", "keep_tokens", "caption_dropout_rate")


@dataclass
class Folder:
    """One of its datasets."""

    at: str  # what its names begin with
    values: dict[str, Any]

    @property
    def path(self) -> str:
        return str(self.values.get("folder_path") or self.values.get("dataset_path") or "/path/to/photos")

    @property
    def is_reg(self) -> bool:
        return str(self.values.get("is_reg", False)).lower() == "true"


def put_photos(settings: Settings, draft: Draft) -> list[Folder]:
    """Returns all datasets."""
    folders = _folders(settings)
    own, classes = [one for one in folders if not one.is_reg], [one for one in folders if one.is_reg]
    if folders and not own:
        raise UserError(f"{settings.where} has class images alone: give a job with a dataset whose is_reg is false")
    _put_photos(settings, draft, own, classes)
    _captions(settings, draft, own)
    _masks(settings, draft, own)
    for one in folders:
        say_words(settings, DATASETS, one.at)
    settings.taken("datasets", "none: --instance_data_path")
    return folders


def _folders(settings: Settings) -> list[Folder]:
    found: dict[int, dict[str, Any]] = {}
    for name, value in settings.values.items():
        if name.startswith(_BEGINNING):
            number, _, key = name[len(_BEGINNING) :].partition(".")
            if number.isdecimal():
                found.setdefault(int(number), {})[key] = value
    return [Folder(f"{_BEGINNING}{number}.", found[number]) for number in sorted(found)]


def _repeats(settings: Settings, one: Folder) -> int:
    return min(MOST_REPEATS, max(1, settings.number(f"{one.at}num_repeats", int, 1)))


def _weight(settings: Settings, one: Folder) -> float:
    return settings.number(f"{one.at}loss_multiplier", float, 1.0)


def _put_photos(settings: Settings, draft: Draft, own: list[Folder], classes: list[Folder]) -> None:
    trigger = _trigger(settings, own)
    prompts = {one.at: settings.text(f"{one.at}default_caption") for one in own + classes}
    reg = settings.number("train.reg_weight", float, 1.0)
    of_class = classes[0] if classes else None
    draft.flags["prior_loss_weight"] = reg * (_weight(settings, of_class) if of_class else 1.0) if of_class else 0
    settings.taken(
        "train.reg_weight", f"--prior_loss_weight {draft.flags['prior_loss_weight']:g}" if of_class else "no class images"
    )
    single = len(own) == 1 and _weight(settings, own[0]) == 1
    if single:
        draft.flags["instance_data_path"] = own[0].path
        draft.flags["train_data_repeat"] = _repeats(settings, own[0])
        if prompts[own[0].at] or trigger:
            draft.flags["instance_prompt"] = prompts[own[0].at] or trigger
        if of_class:
            draft.flags["class_data_path"] = of_class.path
            if prompts[of_class.at]:
                draft.flags["class_prompt"] = prompts[of_class.at]
    elif own:
        draft.put(DATASET + "concepts", [_entry(settings, one, prompts, trigger, of_class) for one in own])
    for one in own:
        settings.taken(
            [f"{one.at}folder_path", f"{one.at}dataset_path"],
            "--instance_data_path" if single else "concepts: instance_data_path",
        )
        settings.taken(f"{one.at}default_caption", "--instance_prompt" if single else "concepts: instance_prompt")
        settings.taken(
            f"{one.at}num_repeats", f"--train_data_repeat {_repeats(settings, one)}" if single else "concepts: repeats"
        )
        settings.taken(
            f"{one.at}loss_multiplier", f"{'1, as here' if single else f'concepts: weight: {_weight(settings, one):g}'}"
        )
        settings.taken(f"{one.at}is_reg", "photos of a subject")
    for one in classes:
        words = "class images, in each update as many as photos; there, each second step is one of class images alone"
        settings.differs(f"{one.at}is_reg", words)
        first = one is of_class
        settings.say(
            TAKEN if first else UNSUPPORTED,
            f"{one.at}folder_path",
            "--class_data_path" if first else "one folder of class images",
        )
        settings.taken(f"{one.at}default_caption", "--class_prompt" if first else "one folder of class images")
        settings.differs(f"{one.at}num_repeats", "class images are drawn as often as photos are")
        settings.taken(f"{one.at}loss_multiplier", "a factor of --prior_loss_weight")
        settings.unsupported(f"{one.at}caption_ext", "one prompt for all class images: --class_prompt")
        names = ("caption_type", "shuffle_tokens", "keep_tokens", "token_dropout_rate", "caption_dropout_rate", "trigger_word")
        settings.taken([f"{one.at}{name}" for name in names], "the prompt of class images does not vary")
        settings.unsupported(
            [f"{one.at}{name}" for name in ("mask_path", "mask_min_value", "invert_mask", "alpha_mask")],
            "class images have no masks",
        )


def _entry(
    settings: Settings, one: Folder, prompts: dict[str, Optional[str]], trigger: Optional[str], of_class: Optional[Folder]
) -> dict[str, Any]:
    weight = _weight(settings, one)
    entry = {
        "instance_data_path": one.path,
        "instance_prompt": prompts[one.at] or trigger,
        "repeats": _repeats(settings, one),
        "weight": weight if weight != 1 else None,
        "class_data_path": of_class.path if of_class else None,
        "class_prompt": prompts[of_class.at] if of_class else None,
    }
    return {name: value for name, value in entry.items() if value is not None}


def _trigger(settings: Settings, own: list[Folder]) -> Optional[str]:
    of_folders = [settings.text(f"{one.at}trigger_word") for one in own]
    return settings.text("trigger_word") or next((word for word in of_folders if word), None)


def _captions(settings: Settings, draft: Draft, own: list[Folder]) -> None:
    """Those of the first dataset, for all."""
    trigger = _trigger(settings, own)
    if trigger:
        put_caption(draft, "trigger", trigger)
    settings.differs("trigger_word", f"captions: trigger: {trigger}; where it stands in no caption, followed by a comma here")
    chance = settings.number("train.prompt_dropout_prob", float, 0.0)
    if not own:
        if chance:
            put_caption(draft, "dropout", chance)
        settings.differs("train.prompt_dropout_prob", f"captions: dropout: {chance:g}, of both text encoders at once")
        return
    first = own[0].at
    ending = settings.text(f"{first}caption_ext") or settings.text(f"{first}caption_type") or ".txt"
    ending = ending if ending.startswith(".") else f".{ending}"
    put_caption(draft, "extensions", [ending])
    dropped = settings.number(f"{first}caption_dropout_rate", float, 0.0)
    both = 1 - (1 - dropped) * (1 - chance)
    tags, keep = settings.number(f"{first}token_dropout_rate", float, 0.0), settings.number(f"{first}keep_tokens", int, 0)
    shuffle = settings.flag(f"{first}shuffle_tokens")
    for key, value in (("dropout", round(both, 6)), ("tag_dropout", tags), ("shuffle", shuffle)):
        if value:
            put_caption(draft, key, value)
    kept = keep if tags and not shuffle else 0
    if kept:
        put_caption(draft, "keep_tokens", kept)
    if chance:
        words = f"captions: dropout: {both:g}, of both text encoders at once"
        settings.differs("train.prompt_dropout_prob", words)
    settings.off("train.prompt_dropout_prob")
    for one in own:
        same = one.at == first
        others = "" if same else "; as of the first dataset, for all"
        changed = DIFFERS if not same and any(one.values.get(n) != own[0].values.get(n) for n in _VARIED) else TAKEN
        settings.say(changed, [f"{one.at}caption_ext", f"{one.at}caption_type"], f"captions: extensions: [{ending}]{others}")
        settings.say(changed, f"{one.at}shuffle_tokens", ("captions: shuffle: True" if shuffle else "off, as here") + others)
        settings.say(
            changed, f"{one.at}token_dropout_rate", (f"captions: tag_dropout: {tags:g}" if tags else "off, as here") + others
        )
        if keep and shuffle and tags:
            settings.unsupported(f"{one.at}keep_tokens", "0: there they are never dropped, but shuffled with the others")
        settings.say(
            changed,
            f"{one.at}keep_tokens",
            (f"captions: keep_tokens: {kept}" if kept else "acts with token_dropout_rate") + others,
        )
        words = f"captions: dropout: {both:g}" + (f"; there {trigger} alone is left" if trigger else "") + others
        outcome = DIFFERS if trigger and dropped else changed
        settings.say(outcome, f"{one.at}caption_dropout_rate", words if dropped else "off, as here")
        word = settings.text(f"{one.at}trigger_word")
        settings.say(
            DIFFERS if word != trigger else TAKEN, f"{one.at}trigger_word", f"captions: trigger: {trigger}, for all photos"
        )


def _masks(settings: Settings, draft: Draft, own: list[Folder]) -> None:
    masked = [one for one in own if one.values.get("mask_path")]
    for one in own:
        if settings.flag(f"{one.at}alpha_mask"):
            settings.unsupported(
                f"{one.at}alpha_mask", "masks are pictures: give mask_path, or NAME-masklabel.png beside each photo"
            )
        settings.off(f"{one.at}alpha_mask")
        if settings.flag(f"{one.at}invert_mask"):
            settings.unsupported(f"{one.at}invert_mask", "white counts: turn the masks into their negatives")
        settings.off(f"{one.at}invert_mask")
    if not masked:
        settings.taken([f"{one.at}mask_min_value" for one in own], "acts with mask_path alone")
        return
    first = masked[0]
    least = settings.number(f"{first.at}mask_min_value", float, 0.0)
    values: dict[str, Any] = {"folder": str(first.values["mask_path"]), "unmasked_weight": least, "normalise": True}
    text = settings.flag("train.train_text_encoder")
    if settings.flag("train.inverted_mask_prior") and not text:
        values["prior_weight"] = settings.number("train.inverted_mask_prior_multiplier", float, 0.5)
        words = f"masks: prior_weight: {values['prior_weight']:g}"
        settings.differs(
            ["train.inverted_mask_prior", "train.inverted_mask_prior_multiplier"], words + "; divided by each mask's own mean"
        )
    elif settings.flag("train.inverted_mask_prior"):
        names = ["train.inverted_mask_prior", "train.inverted_mask_prior_multiplier"]
        settings.unsupported(names, "where text encoders train, the prediction without LoRA is not computed: off")
    draft.put(DATASET + "masks", values)
    words = "masks: folder, normalise: True: by each mask's own mean, not the batch's"
    for one in masked:
        settings.say(DIFFERS, f"{one.at}mask_path", words + ("" if one is first else "; one folder of masks for all"))
        words_of = f"masks: unmasked_weight: {least:g}; greys below count as much, where all are raised there"
        settings.say(
            DIFFERS if least else TAKEN, f"{one.at}mask_min_value", words_of if least else "masks: unmasked_weight: 0"
        )
        settings.default(f"{one.at}mask_min_value", 0.0, "masks: unmasked_weight: 0")
