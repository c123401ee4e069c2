"""Which checkpoint: what tools/evaluate.py --checkpoints picks from a few pictures, against a full evaluation of every one.

    python bench/chooser.py              writes bench/chooser.md and a plot beside it
    python bench/chooser.py --seeds 2    trains and evaluates this seed alone; the page is written by a call for all of them
    python bench/chooser.py --quick      one seed, few updates and pictures: shows how it works, writes to --folder only

Trains the small model as bench/subject.py does, longer than is good for it, and saves a LoRA every 50 updates. What an
earlier call has finished is not done again. The few pictures are among those of the full evaluation.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Mapping, NamedTuple, Optional, Sequence

from subject import HELD_OUT, PIXELS, ROOT, UNET, Bench, Variant, draw_subject, options_of, project, train

from gm.evaluation.checkpoints import Course, read_course
from gm.evaluation.chooser import TOLERANCE, Choice, learned
from gm.files import replacing
from gm.options.evaluate import SEEDS_OF_RUN

UPDATES, EVERY, SEEDS = 800, 50, (1, 2, 3)
ENOUGH = 0.02  # of the score: a pick that is nearer to the best is as good


class Outcome(NamedTuple):
    """What came out for one seed of training; scores are those of the full evaluation."""

    pick: Choice  # from a few pictures; its score is that of these
    picked: float  # its score
    best: Choice  # the highest score, and its step
    last: float  # the last checkpoint's score
    stopped: Optional[tuple[int, float]]  # updates after which --stop_when_learned would have ended, the score it would keep
    seconds: float  # that choosing took


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), default=SEEDS)
    own, rest = parser.parse_known_args(argv)
    bench = options_of(rest, __doc__, "chooser")
    seeds = (1,) if bench.quick else own.seeds
    draw_subject(bench.folder / "held_out", "held-out", HELD_OUT)
    courses = {seed: evaluated(bench, seed) for seed in seeds}
    if not bench.quick and seeds != SEEDS:
        print(f"seeds {', '.join(map(str, seeds))} are done: the page is written once all of {SEEDS} are asked for")
        return
    outcomes = {seed: outcome(few, full, seconds) for seed, (few, full, seconds) in courses.items()}
    text = page(outcomes, bench)
    print(text)
    target = bench.folder if bench.quick else ROOT / "bench"
    (target / "chooser.md").write_text(text, encoding="utf-8")
    draw(target / "chooser.png", {seed: (few, full) for seed, (few, full, _) in courses.items()}, outcomes)


# -- running ---------------------------------------------------------------------------------------------------------


def evaluated(bench: Bench, seed: int) -> tuple[Course, Course, float]:
    """The run's checkpoints by a few pictures and by all, and the seconds that the first took."""
    config = bench.folder / "longer.yaml"
    config.write_text(f"base: {UNET}\ndata:\n  total_step: {UPDATES}\n", encoding="utf-8")
    words = ("--save_ckpt_interval", 10 if bench.quick else EVERY)  # of 20 updates, as train() has it
    run = train(bench, Variant(config, True, len(SEEDS), words), seed).parent
    few, full, stamp = run / "few", run / "full", run / "few" / "seconds.json"
    if not stamp.exists():
        shutil.rmtree(few, ignore_errors=True)  # a part of it would make the time too short
        began = time.perf_counter()
        evaluate(bench, run, few, 1 if bench.quick else SEEDS_OF_RUN)
        with replacing(stamp) as unfinished:
            unfinished.write_text(json.dumps(time.perf_counter() - began))
    shutil.copytree(few, full, dirs_exist_ok=True)  # pictures that both need are sampled once
    evaluate(bench, run, full, bench.num_seeds)
    found = read_course(few), read_course(full)
    assert found[0] and found[1], "the command has written them"
    return found[0], found[1], json.loads(stamp.read_text())


def evaluate(bench: Bench, run: Path, output: Path, num_seeds: int) -> None:
    """tools/evaluate.py on the checkpoints of a run."""
    words = ["--checkpoints", run, "--weight", bench.weight, "--device_target", "CPU", "--output", output]
    words += ["--subject_photos", bench.folder / "photos", "--held_out", bench.folder / "held_out"]
    words += ["--num_seeds", num_seeds, "--sample_step", bench.sample_step, "--guidance_scale", bench.guidance_scale]
    project("tools/evaluate.py", *words)


# -- what came out ---------------------------------------------------------------------------------------------------


def outcome(few: Course, full: Course, seconds: float) -> Outcome:
    """Of one run."""
    scores = {one.step: full.score(one.figures) for one in full.steps}
    best = max(scores, key=lambda step: scores[step])
    pick = few.choice
    assert pick, "there are checkpoints"
    ends = (learned(few.base, few.real, few.points[:count]) for count in range(1, len(few.points) + 1))
    end = next(((few.points[i].step, choice) for i, choice in enumerate(ends) if choice), None)
    stopped = None if end is None else (end[0], scores[end[1].step])
    return Outcome(pick, scores[pick.step], Choice(best, scores[best], ""), scores[max(scores)], stopped, seconds)


def page(outcomes: Mapping[int, Outcome], bench: Bench) -> str:
    """bench/chooser.md."""
    lines = []
    for seed, one in outcomes.items():
        stop = "-" if one.stopped is None else f"{one.stopped[0]}, {one.stopped[1]:.3f}"
        behind = one.best.score - one.picked
        lines.append(
            f"| {seed} | {one.pick.step} | {one.picked:.3f} | {one.best.score:.3f} at {one.best.step} | {behind:.3f} | "
            f"{'yes' if behind <= ENOUGH else '**no**'} | {one.last:.3f} | {stop} | {one.seconds:.0f} |"
        )
    reasons = "\n".join(f"* seed {seed}: {one.pick.step}, {one.pick.reason}" for seed, one in outcomes.items())
    rows = "\n".join(lines)
    return f"""# Which checkpoint

Written by `python bench/chooser.py`{" --quick" if bench.quick else ""}. The small model, {PIXELS} x {PIXELS} pixels, on a CPU, with
prior preservation, {UPDATES} updates, a LoRA every {EVERY}. The pick is that of `tools/evaluate.py --checkpoints`: {SEEDS_OF_RUN} seeds
of five prompts and as many pictures of the class, the earliest checkpoint at most {TOLERANCE:g} below the best score. Its score, the
best one and the last checkpoint's are those of a full evaluation: {bench.num_seeds} seeds. {bench.sample_step} Euler steps, guidance
{bench.guidance_scale:g}. What the score is: gm/evaluation/chooser.py.

| seed | pick | its score | best score | behind it | within {ENOUGH:g} | last checkpoint's score | --stop_when_learned would end at, score kept | seconds for choosing |
|---|---|---|---|---|---|---|---|---|
{rows}

{reasons}

![the score over the updates, by a few pictures and in full](chooser.png)
"""


def draw(path: Path, courses: Mapping[int, tuple[Course, Course]], outcomes: Mapping[int, Outcome]) -> None:
    """A panel for each seed: the scores by a few pictures and in full, the pick and the best."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(courses), 3.6), layout="constrained")
    for axes, (seed, (few, full)) in zip(figure.subplots(1, len(courses), squeeze=False, sharey=True)[0], courses.items()):
        for course, style, words in ((few, "--", "few pictures"), (full, "-", "full evaluation")):
            axes.plot(
                [one.step for one in course.steps], [course.score(one.figures) for one in course.steps], style, label=words
            )
        one = outcomes[seed]
        axes.plot([one.best.step], [one.best.score], "k^", label=f"best {one.best.score:.3f} at {one.best.step}")
        axes.plot([one.pick.step], [one.picked], "o", color="tab:red", label=f"pick {one.picked:.3f} at {one.pick.step}")
        axes.set(title=f"seed {seed}", xlabel="optimizer updates", ylabel="score")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    with replacing(path) as unfinished:
        FigureCanvasAgg(figure).print_png(str(unfinished))


if __name__ == "__main__":
    sys.exit(main())
