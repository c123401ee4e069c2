"""How much a training is, in words: how often each photo is seen, how many pictures and files there will be."""

from gm.config.types import Config
from studio.recipe import command
from studio.recipe.offered import Prepared
from studio.recipe.tree import used_photos
from studio.words import say


def sentences(prepared: Prepared, config: Config) -> list[str]:
    """What the numbers mean."""
    assert config.data is not None  # load_config demands it for training
    flags = command.flags_of(prepared.studio, prepared.settings, config.data.total_step)
    photos = len(used_photos(prepared.draft, prepared.settings))
    accumulated = int(flags.get("gradient_accumulation_steps", 1))
    together, total = config.data.per_batch_size * accumulated, config.data.total_step
    said = [_seen(photos, total, together, int(flags.get("train_data_repeat", 10)))]
    if command.uses_class(prepared.settings):
        said.append(_class_images(prepared, config, int(flags.get("num_class_images", 50))))
    said.append(say("A LoRA is saved every {n} updates.", n=flags.get("save_ckpt_interval", 1000)))
    if flags.get("infer_during_train") == "True":
        said.append(say("Pictures are drawn every {n} updates.", n=flags.get("infer_interval", 500)))
    return said


def _seen(photos: int, total: int, together: int, repeats: int) -> str:
    if not photos:
        return say("{total} updates with {n} photos each; there are no photos yet.", total=total, n=together)
    samples = photos * repeats
    return say(
        "{total} updates with {n} photos each: every one of the {photos} photos is seen about {times} times, which is {epochs} "
        "epochs of {photos} x {repeats} = {samples}.",
        total=total,
        n=together,
        photos=photos,
        times=_rounded(total * together / photos),
        epochs=_rounded(total * together / samples),
        repeats=repeats,
        samples=samples,
    )


def _class_images(prepared: Prepared, config: Config, wanted: int) -> str:
    folder = command.class_folder(prepared.studio, prepared.settings, config)
    there = sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
    if there >= wanted:
        return say("As many class images are seen beside them; all {wanted} are there already.", wanted=wanted)
    return say(
        "As many class images are seen beside them; {missing} of {wanted} are sampled first.",
        missing=wanted - there,
        wanted=wanted,
    )


def _rounded(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"
