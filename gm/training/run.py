"""One training run, from checked inputs to the LoRA file. Read it from top to bottom:

class images -> prompts and photos encoded, beside them the trainer built and compiled -> updates -> files.

The loss is gm/diffusion/denoiser.py, the update step.py, the loop loop.py. The UNet that samples the class images is the
one that is then trained, where nothing but LoRA at its start stands between the two.
"""

import time
from functools import cache, partial
from pathlib import Path
from typing import Mapping, Optional

from gm import memory
from gm.console import log
from gm.data.crops import PhotoSet
from gm.data.disk_cache import DiskCache
from gm.data.dreambooth import CLASS, INSTANCE, DreamBoothSchedule
from gm.device import chip
from gm.diffusion.levels import Levels
from gm.encoding.text import TextEmbedding
from gm.files import replacing
from gm.models.unet import UNET_PREFIX
from gm.parallel.ranks import Ranks
from gm.process import beside
from gm.runtime import Runtime
from gm.training import networks, results
from gm.training.batches import BatchMaker, TextRows
from gm.training.class_images import class_images_of, filling, sample_class_images
from gm.training.data_sheet import log_data, write_sheet
from gm.training.diagnosis.paragraph import write_diagnosis
from gm.training.drawing import drawing
from gm.training.folders import used_alone
from gm.training.identity import Identity, differences, identity, rounds_otherwise
from gm.training.inputs import Inputs, make_folders
from gm.training.loop import LoopSettings, compile_first, fit
from gm.training.metadata import Facts
from gm.training.photos import chooser, class_photos, instance_photos, orders_of
from gm.training.precompute import Encoded, Precompute, encode_when_drawn
from gm.training.records import MayFail
from gm.training.setting import Setting
from gm.training.timings import Timings, peak_memory_in_words
from gm.training.validation import progress_pictures
from gm.training.weights import open_starting_weights

LINES = 30  # of the log, where --log_interval does not say otherwise


def run(inputs: Inputs, machine: Runtime, ranks: Ranks) -> Optional[Path]:
    """Train; returns the last LoRA file, or None when --stop_after_sampling ended the run before, or nothing is left to train."""
    setting = prepare(inputs, machine, ranks)
    if setting.weights.step >= inputs.config.data.total_step:
        log.info("%s", results.nothing_left(setting))
        return None
    with used_alone("--save_path", [inputs.folder], ranks):
        return train(setting)


def train(setting: Setting) -> Optional[Path]:
    """`run`, in a folder that is this run's alone."""
    inputs, machine, ranks, may_fail = setting.inputs, setting.machine, setting.ranks, MayFail()
    load_unet = cache(lambda: networks.load_unet(setting))
    load_vae = cache(lambda: networks.load_vae(setting))

    # class images
    with filling(inputs, ranks) as missing:
        texts, unet_texts = {}, {}
        if missing:
            texts = embed(setting)
            if inputs.class_config is inputs.config and setting.weights.lora is None:
                unet_texts = networks.widened(setting, load_unet(), trained_on(inputs, texts))
                class_texts, load_class_unet = unet_texts, load_unet
            else:
                class_texts, load_class_unet = texts, lambda: networks.load_plain_unet(setting)
            sample_class_images(setting, missing, class_texts, lambda: (load_class_unet(), load_vae()))
        class_images = class_images_of(inputs, ranks)
    if inputs.options.stop_after_sampling:
        folders = ", ".join(str(one.folder) for one in inputs.class_folders)
        log.info("stopping after the class images, as --stop_after_sampling asks: look at %s, then train", folders)
        return None
    if ranks.is_main:
        with replacing(inputs.folder / "config.yaml") as unfinished:
            unfinished.write_text(inputs.config.raw, encoding="utf-8")

    # what is trained on
    sets = photo_sets(inputs, class_images)
    schedule = make_schedule(inputs, sets, ranks)
    draws = schedule.distinct_draws(inputs.config.data.total_step)
    with setting.timings("photos"):
        samples = setting.precompute.plan(sets, draws)
    if ranks.is_main:
        log_data(inputs, sets[0], schedule, samples)
    own = identity(inputs, sets, ranks.size, machine.amp_level)
    compare(setting, own)
    facts = Facts(inputs, machine, schedule)
    results.what_files_say(setting, facts, own, 0)  # what fails here would fail after the first hours

    # encode, and beside it build and compile
    def encode() -> Encoded:
        embedded = texts if texts or inputs.config.trains_text_encoders else embed(setting)
        with setting.timings("photos"):
            if ranks.is_main:
                with may_fail("data.png"):
                    write_sheet(inputs.folder, sets[0], samples)
            kept = inputs.options.cache_latents
            posterior = setting.precompute.encode(samples) if kept else encode_when_drawn(load_vae())
        return Encoded(texts=embedded, posterior=posterior)

    alone = ranks.size > 1 or not inputs.options.cache_latents  # other ranks are waited for, or this process encodes
    with beside(encode, wait_first=alone) as encoding:

        def hold() -> bool:
            return not encoding.done()

        unet = networks.load_unet(setting, hold) if not missing else load_unet()
        trains_text = inputs.config.trains_text_encoders
        text_encoders = networks.load_text_encoders(setting, hold) if trains_text else None
        trainer = networks.make_trainer(setting, unet, text_encoders, bool(class_images))
        if encoding.done() or not chip().compiles_on_host:
            encoding.result()
        compile_first(trainer, networks.blank_batches(setting, unet, bool(class_images)), setting.timings, hold)
        with setting.timings("waiting for prompts and photos"):
            encoded = encoding.result()
    unet_texts = unet_texts or networks.widened(setting, unet, trained_on(inputs, encoded.texts))

    # train
    make_batch = BatchMaker(
        schedule,
        samples,
        {one.kind: chooser(one.photos, one.kind, inputs.options.seed, trains_text) for one in sets},
        encoded.posterior,
        TextRows(None if trains_text else unet_texts, inputs.config.data.max_tokens),
        inputs.options.seed,
        Levels.of(inputs.config.model, inputs.config.weighting, inputs.config.loss),
        inputs.config.noise,
        inputs.config.data.masks is not None,
    )
    first, infer, evaluation = trainer.step, None, None
    sampled_with = cache(lambda: drawing(setting, unet, load_vae(), text_encoders, encoded.texts, unet_texts))
    pictures = cache(lambda: progress_pictures(setting, sampled_with(), first))
    if ranks.is_main:

        def infer(step: int) -> None:  # what it needs is made now, or when somebody asks for pictures (requests.py)
            pictures()(step)

        if inputs.options.infer_during_train:
            pictures()
        if inputs.evaluation:
            from gm.training import evaluating  # what it imports is for the runs that have one

            evaluation = evaluating.evaluation(setting, trainer, sampled_with())
    log.info(
        "training %d LoRA matrices (%d numbers) for %d steps of %d x %d samples",
        *(len(trainer.parameters), trainer.gradient.size, inputs.config.data.total_step),
        *(schedule.accumulation * schedule.ranks, schedule.per_batch_size * len(sets)),
    )
    if infer and inputs.options.infer_during_train and not first:
        with setting.timings("progress pictures"):
            infer(0)
    start = time.perf_counter()
    save = partial(results.save, setting, trainer, facts, own)
    last = fit(
        *(trainer, make_batch, schedule.accumulation, loop_settings(inputs), save, setting.timings, infer, ranks, evaluation)
    )
    if ranks.is_main:
        with may_fail("timings.json"):
            setting.timings.report(inputs.folder / "timings.json", trainer.step - first)
        with may_fail("diagnosis.txt"):
            there = memory.available(machine) if machine.device != "CPU" else None
            log.info("%s", write_diagnosis(inputs.folder, there / 1e9 if there else None))
    log.info("trained in %.1f s, peak memory %s", time.perf_counter() - start, peak_memory_in_words())
    if ranks.size > 1:
        log.info("%d all-reduces of %.1f MB over %d ranks", trainer.reductions, trainer.reduced_mb, ranks.size)
    choice = evaluation.choice if evaluation else None
    if choice is None:
        log.info("done: %s\nsample from it:\n%s", last, results.next_command(setting, last))
    else:
        log.info("done: %s\n%s", last, results.chosen_in_words(setting, choice))
    return last


def compare(setting: Setting, own: Identity) -> None:
    """Say what makes a resumed run another one than it was."""
    before, resume = setting.weights.before, setting.inputs.options.resume
    if before is None:
        return
    differs, rounds = differences(before, own), rounds_otherwise(before, own)
    if differs:
        log.warning("--resume %s goes on as another run: %s", resume, "; ".join(differs))
    if rounds:
        log.info("--resume %s: %s, so the result is that of an unbroken run within rounding", resume, rounds)


def embed(setting: Setting) -> dict[str, TextEmbedding]:
    """All prompts of the run, by the base model's text encoders."""
    with setting.timings("prompts"):
        return setting.precompute.embed(setting.inputs.prompts)


def trained_on(inputs: Inputs, texts: Mapping[str, TextEmbedding]) -> dict[str, TextEmbedding]:
    """Of the embedded prompts those of the photos. The products of a progress picture's are not kept (validation.py)."""
    return {prompt: texts[prompt] for prompt in inputs.texts if prompt in texts}


def prepare(inputs: Inputs, machine: Runtime, ranks: Ranks) -> Setting:
    """The setting of a run: weight files opened and checked, folders made; nothing is loaded yet."""
    with ranks.agreeing():
        weights = open_starting_weights(inputs.options, inputs.config)
        _require_memory(inputs, machine, weights.base.shapes)
        timings, measure = Timings(), None
        if inputs.evaluation and ranks.is_main:
            from gm.training.evaluating import measure_of

            with timings("evaluation"):
                measure = measure_of(inputs)
        make_folders(inputs, ranks)
    cache_dir = inputs.options.cache_dir
    return Setting(
        inputs=inputs,
        weights=weights,
        machine=machine,
        ranks=ranks,
        precompute=Precompute(
            model=inputs.config.model,
            base=weights.base,
            machine=machine,
            ranks=ranks,
            disk=DiskCache(Path(cache_dir) if cache_dir else None),
            max_tokens=inputs.config.data.max_tokens,
        ),
        timings=timings,
        measure=measure,
    )


def _require_memory(inputs: Inputs, machine: Runtime, shapes: Mapping[str, tuple]) -> None:
    """UserError where an update of the largest of the run's shapes cannot fit."""
    height, width = max(inputs.buckets.shapes, key=lambda shape: shape[0] * shape[1])
    rows = inputs.config.data.per_batch_size * (2 if inputs.class_folders else 1)
    loaded = memory.weights(shapes, UNET_PREFIX, 2 if machine.amp_level == "O2" else memory.FLOAT)
    memory.require_for_training(inputs.config.model, height, width, rows, machine, loaded)


def photo_sets(inputs: Inputs, class_images: list[Path]) -> list[PhotoSet]:
    """The photos of the subjects, and those of their classes where there are any."""
    data, seed = inputs.config.data, inputs.options.seed
    photos = {INSTANCE: instance_photos(data, inputs.subjects, inputs.buckets)}
    if class_images:
        weight = inputs.options.prior_loss_weight
        photos[CLASS] = class_photos(data, inputs.class_folders, class_images, inputs.buckets, weight)
    return [PhotoSet(kind, of_kind, data.interpolation, data.crop, seed) for kind, of_kind in photos.items()]


def make_schedule(inputs: Inputs, sets: list[PhotoSet], ranks: Ranks) -> DreamBoothSchedule:
    """Which samples are drawn in which update."""
    options, data = inputs.options, inputs.config.data
    orders = {s.kind: orders_of(s.photos, inputs.buckets, s.kind, data.shuffle, options.seed) for s in sets}
    return DreamBoothSchedule(
        instances=orders[INSTANCE],
        classes=orders.get(CLASS, ()),
        per_batch_size=data.per_batch_size,
        accumulation=options.gradient_accumulation_steps,
        ranks=ranks.size,
    )


def loop_settings(inputs: Inputs) -> LoopSettings:
    """What the loop writes where, and how often."""
    options = inputs.options
    return LoopSettings(
        folder=inputs.folder,
        save_every=options.save_ckpt_interval,
        keep=options.max_num_ckpt,
        log_every=options.log_interval or max(1, inputs.config.data.total_step // LINES),
        infer_every=options.infer_interval if options.infer_during_train else None,
        save_minutes=options.save_every_minutes,
        evaluate_every=options.evaluate_every,
        continues=options.resume is not None and Path(options.resume).resolve().parent == inputs.folder.resolve(),
        go_on="the same command with --resume True goes on",
    )
