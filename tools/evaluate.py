"""Tell how well LoRA have learned a subject, by the figures of the DreamBooth paper (arXiv 2208.12242, section 4).

    python tools/evaluate.py --config configs/inference/small_sdxl.yaml --weight checkpoints/small_sdxl.safetensors \
      --lora "with prior=runs/with/SDXL_base_1.0_400_lora.ckpt" --lora "without=runs/without/SDXL_base_1.0_400_lora.ckpt" \
      --subject_photos photos --held_out others --size 64 --output runs/evaluation --device_target CPU

    python tools/evaluate.py --checkpoints runs --weight checkpoints/small_sdxl.safetensors --subject_photos photos \
      --device_target CPU

Every model is asked for the same pictures: each prompt with each seed, and the class prompt. Those that an earlier run made
in the same way are not sampled again. Results in --output: the pictures, a sheet of them for each model, `evaluation.md`,
`evaluation.json` and `evaluation.png`; the table is printed as well.

With --checkpoints the models are all LoRA that a run has saved; then `checkpoints.md`, `checkpoints.json`, `checkpoints.png`
(curves over the updates) and `checkpoints_sheet.png` are written, and the best checkpoint is named with its reason.
"""

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gm import ending

if __name__ == "__main__":  # what is imported below takes a while
    ending.catch_signals()

from gm import console, runtime
from gm.checkpoint.lora_files import open_lora
from gm.config.load import load_config
from gm.config.types import Config, SampleSettings
from gm.console import bar, log
from gm.data.images import list_images
from gm.errors import UserError, require_multiple
from gm.evaluation import report
from gm.evaluation.features import load_features
from gm.evaluation.saved_run import SavedRun, open_run, words_of
from gm.files import make_writable
from gm.options.evaluate import SIZE, EvaluateOptions, completed, parse_evaluate
from gm.options.sample import sampling_command


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse_evaluate(sys.argv[1:] if argv is None else argv)
    run = open_run(options.checkpoints, "--checkpoints") if options.checkpoints else None
    runtime.quiet_environment()  # MindSpore is imported from here on
    config = load_config(options.config, options.set, training=False)
    if run:
        options = _with_what_the_run_says(options, run, config)
    require_multiple("--size", options.size, config.model.unet.downsampling)
    machine = runtime.start(options.machine, options.seed, [config.model])

    from gm.encoding.source import source_of
    from gm.evaluation.checkpoints import Course, Evaluated, Sheet, row_name
    from gm.evaluation.measure import Measure, Photos, flat_pictures, read_photos
    from gm.evaluation.samples import Gallery, Row
    from gm.sampling.pipeline import Pipeline

    photos = Photos(
        read_photos(list_images(Path(options.subject_photos), "--subject_photos"), "--subject_photos"),
        read_photos(list_images(Path(options.held_out), "--held_out"), "--held_out") if options.held_out else None,
    )
    if photos.held_out is None and len(photos.training) < 2:
        raise UserError(f"--subject_photos {options.subject_photos} holds one photo to compare with itself: give --held_out")
    features = _features(options)
    pipeline = Pipeline(source_of(config, options.weight, machine, use_lora=False, vae=options.vae))
    loras = {row_name(step): path for step, path in run.loras.items()} if run else dict(options.lora)
    for path in loras.values():
        with open_lora(path, config.model) as file:
            file.check_against_base(pipeline.base_shapes)
    plan = _plan(options)
    pipeline.require_memory([plan.settings], plan.batch)
    measure = Measure(features, photos, options.prompts)
    make_writable(("--output", options.output))

    rows, by_prompt, notes = {report.REAL: measure.real_pictures()}, {}, []
    gallery = Gallery(options.output, plan, _made_from(options, pipeline, machine))
    models = [Row(report.BASE), *(Row(*lora) for lora in loras.items())]
    sheet, seconds = Sheet(plan.prompts, plan.class_prompt), {}
    total = len(models) * (len(plan.prompts) * len(plan.seeds) + len(plan.class_seeds))
    with bar(None, "pictures", total=total, unit="picture") as progress:
        for number, row in enumerate(models):
            began = time.perf_counter()
            pictures = gallery.fill(row, pipeline, progress)
            log.info("pictures of %s: %s", row.name, gallery.draw_sheet(row, pictures))
            rows[row.name], by_prompt[row.name] = measure.model(pictures)
            flat = flat_pictures(pictures)
            if flat:
                notes.append(f"{row.name}: {flat} pictures have one colour everywhere and count as failed in every figure")
                log.warning("%s", notes[-1])
            seconds[row.name] = time.perf_counter() - began
            if run:
                sheet.add([0, *run.loras][number], pictures)

    settings = {key: value for key, value in asdict(options).items() if key not in ("output", "ms_mode")}
    if run:
        steps = [Evaluated(step, rows[row_name(step)], seconds[row_name(step)]) for step in run.loras]
        _report_run(options, run, Course(rows[report.REAL], rows[report.BASE], steps), sheet, settings, notes)
        return
    table = "\n\n".join([report.table(rows), "\n".join([report.sentences(rows), *notes])]) + "\n"
    print(table)  # before it is written, in case it cannot be
    report.write_text(options.output / "evaluation.md", table)
    report.write_json(options.output / "evaluation.json", rows, settings, by_prompt)
    report.draw(options.output / "evaluation.png", rows)
    log.info("evaluation.md, evaluation.json and evaluation.png written in %s", options.output)


def _with_what_the_run_says(options: EvaluateOptions, run: SavedRun, config: Config) -> EvaluateOptions:
    """Where no flag says it, subject, class and size are those of the run."""
    subject, class_prompt = words_of(run, config.data, options.subject, options.class_prompt)
    options = completed(options, subject, class_prompt, config.data.target_size if config.data else SIZE)
    log.info("subject %r, class prompt %r, %d x %d pixels", subject, class_prompt, options.size, options.size)
    return options


def _report_run(options: EvaluateOptions, run: SavedRun, course, sheet, settings: dict, notes: Sequence[str]) -> None:
    """The table, the figures of the checkpoints, their curves and their sheet; and the choice, with the command to sample."""
    from gm.evaluation import checkpoints

    choice = course.choice
    rows = {report.REAL: course.real, report.BASE: course.base}
    rows |= {checkpoints.row_name(one.step): one.figures for one in course.steps}
    scores = {checkpoints.row_name(one.step): course.score(one.figures) for one in course.steps}
    lora = run.loras[choice.step]
    words = [f"the best is {lora}: score {choice.score:.3f}; {choice.reason}", *notes]
    table = "\n\n".join([report.table(rows, scores), "\n".join(words)]) + "\n"
    print(table)
    report.write_text(options.output / "checkpoints.md", table)
    checkpoints.write_course(options.output, course, settings)
    sheet.save(options.output / checkpoints.SHEET, choice)
    log.info(
        "checkpoints.md, %s, %s and %s written in %s", checkpoints.JSON, checkpoints.CURVES, checkpoints.SHEET, options.output
    )
    flags = {
        "--config": options.config,
        "--weight": f"{options.weight},{lora}",
        "--vae": options.vae,
        "--prompt": options.prompts[0],
        "--height": options.size,
        "--width": options.size,
        "--device_target": options.device_target,
    }
    print(f"sample from it:\n{sampling_command(flags)}")


def _features(options: EvaluateOptions):
    """The judge of the drawn world, or what the user's file makes."""
    if options.features != "judge":
        return load_features(options.features)
    from tools.toy.judge import Judge

    return Judge.load(options.judge)


def _plan(options: EvaluateOptions):
    from gm.evaluation.samples import Plan

    settings = replace(SampleSettings.square(options.size, options.sample_step), guidance_scale=options.guidance_scale)
    return Plan(
        prompts=options.prompts,
        class_prompt=options.class_prompt,
        seeds=tuple(range(options.seed, options.seed + options.num_seeds)),
        class_seeds=tuple(range(options.seed, options.seed + options.num_class_pictures)),
        settings=settings,
        batch=options.sample_batch_size,
    )


def _made_from(options: EvaluateOptions, pipeline, machine) -> dict[str, object]:
    """What decides the base model's pictures besides prompt, seed and settings."""
    return {
        "model": asdict(pipeline.model),
        "base": pipeline.weights.base.stamps(),
        "device": machine.device,
        "precision": machine.amp_level,
        **({"max_tokens": pipeline.source.max_tokens} if pipeline.source.max_tokens != 75 else {}),
    }


if __name__ == "__main__":
    sys.exit(console.run_command(main))
