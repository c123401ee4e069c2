"""Tell how well LoRA have learned a subject, by the figures of the DreamBooth paper (arXiv 2208.12242, section 4).

    python tools/evaluate.py --config configs/inference/small_sdxl.yaml --weight checkpoints/small_sdxl.safetensors \
      --lora "with prior=runs/with/SDXL_base_1.0_400_lora.ckpt" --lora "without=runs/without/SDXL_base_1.0_400_lora.ckpt" \
      --subject_photos photos --held_out others --size 64 --output runs/evaluation --device_target CPU

Every model is asked for the same pictures: each prompt with each seed, and the class prompt. Those that an earlier run made
in the same way are not sampled again. Results in --output: the pictures, a sheet of them for each model, `evaluation.md`,
`evaluation.json` and `evaluation.png`; the table is printed as well.
"""

import sys
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
from gm.config.types import SampleSettings
from gm.console import bar, log
from gm.data.images import list_images, read_image
from gm.errors import UserError, require_multiple
from gm.evaluation import report
from gm.evaluation.features import load_features
from gm.files import make_writable
from gm.options.evaluate import EvaluateOptions, parse_evaluate


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    options = parse_evaluate(sys.argv[1:] if argv is None else argv)
    runtime.quiet_environment()  # MindSpore is imported from here on
    config = load_config(options.config, options.set, training=False)
    require_multiple("--size", options.size, config.model.unet.downsampling)
    machine = runtime.start(options.machine, options.seed, [config.model])

    from gm.encoding.source import source_of
    from gm.evaluation.measure import Measure, Photos
    from gm.evaluation.samples import Gallery, Row
    from gm.sampling.pipeline import Pipeline

    photos = Photos(
        _photos(options.subject_photos, "--subject_photos"),
        _photos(options.held_out, "--held_out") if options.held_out else None,
    )
    if photos.held_out is None and len(photos.training) < 2:
        raise UserError(f"--subject_photos {options.subject_photos} holds one photo to compare with itself: give --held_out")
    pipeline = Pipeline(source_of(config, options.weight, machine, use_lora=False, vae=options.vae))
    for _, path in options.lora:
        with open_lora(path, config.model) as file:
            file.check_against_base(pipeline.base_shapes)
    measure = Measure(_features(options), photos, options.prompts)
    make_writable(("--output", options.output))

    rows, by_prompt = {report.REAL: measure.real_pictures()}, {}
    plan = _plan(options)
    gallery = Gallery(options.output, plan, _made_from(options, pipeline, machine))
    models = [Row(report.BASE), *(Row(*lora) for lora in options.lora)]
    total = len(models) * (len(plan.prompts) * len(plan.seeds) + len(plan.class_seeds))
    with bar(None, "pictures", total=total, unit="picture") as progress:
        for row in models:
            pictures = gallery.fill(row, pipeline, progress)
            log.info("pictures of %s: %s", row.name, gallery.draw_sheet(row, pictures))
            rows[row.name], by_prompt[row.name] = measure.model(pictures)

    table = f"{report.table(rows)}\n\n{report.sentences(rows)}\n"
    (options.output / "evaluation.md").write_text(table, encoding="utf-8")
    settings = {key: value for key, value in asdict(options).items() if key not in ("output", "ms_mode")}
    report.write_json(options.output / "evaluation.json", rows, settings, by_prompt)
    report.draw(options.output / "evaluation.png", rows)
    log.info("evaluation.md, evaluation.json and evaluation.png written in %s", options.output)
    print(table)


def _features(options: EvaluateOptions):
    """The judge of the drawn world, or what the user's file makes."""
    if options.features != "judge":
        return load_features(options.features)
    from tools.toy.judge import Judge

    return Judge.load(options.judge)


def _photos(folder: str, flag: str) -> list:
    return [read_image(path) for path in list_images(Path(folder), flag)]


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
