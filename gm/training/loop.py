"""The training loop: draws -> micro-batches -> updates, and what is written on the way.

`<save_path>/SDXL_base_1.0_<step>_lora.ckpt`, as .safetensors too if asked for, training_state.ckpt (for --resume),
metrics.jsonl and loss.png.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import numpy as np

from gm.console import bar, log, waiting
from gm.data.crops import Posteriors, text_rows
from gm.data.dreambooth import DreamBoothSchedule
from gm.diffusion.schedule import train_sigmas
from gm.parallel.ranks import Ranks
from gm.pictures import plot_losses
from gm.training.noise import draw_noise
from gm.training.timings import Timings
from gm.training.step import MicroBatch, Trainer


@dataclass(frozen=True)
class LoopSettings:
    folder: Path
    save_every: int  # updates between checkpoints
    keep: Optional[int]  # newest checkpoints that stay; None keeps all
    log_every: int  # updates between log lines
    infer_every: Optional[int]  # updates between progress pictures; None for none
    name: str = "SDXL_base_1.0_{step}_lora.ckpt"  # of a checkpoint


class BatchMaker:
    """(step, micro, rank) -> MicroBatch."""

    def __init__(
        self,
        schedule: DreamBoothSchedule,
        posteriors: Posteriors,
        instance_text: tuple,
        class_text: Optional[tuple],
        seed: int,
        num_timesteps: int,
    ):
        self.schedule, self.posteriors, self.seed = schedule, posteriors, seed
        self.instance_text, self.class_text = instance_text, class_text
        self.texts: dict[tuple[int, ...], tuple] = {}  # of rows of these kinds
        self.sigmas = train_sigmas(num_timesteps)

    def __call__(self, step: int, micro: int, rank: int) -> MicroBatch:
        draws = self.schedule.micro_batch(step, micro, rank)
        posteriors = [self.posteriors[draw] for draw in draws]
        shape = posteriors[0].mean.shape
        index, noise, posterior_noise = draw_noise(draws, self.seed, shape, len(self.sigmas))
        kinds = tuple(draw.kind for draw in draws)
        if kinds not in self.texts:
            self.texts[kinds] = text_rows(kinds, self.instance_text, self.class_text)
        return MicroBatch(
            mean=np.stack([p.mean for p in posteriors]),
            logvar=np.stack([p.logvar for p in posteriors]),
            posterior_noise=posterior_noise,
            noise=noise,
            sigma=self.sigmas[index],
            timestep=index,
            text=self.texts[kinds],
            sizes=np.stack([p.sizes for p in posteriors]),
            weight=np.array([draw.loss_weight for draw in draws]),
            kind=np.array(kinds),
        )


class Checkpoints:
    """Saves, and deletes the oldest that this run wrote beyond `keep`."""

    def __init__(self, settings: LoopSettings, save: Callable[[Path, int], None]):
        self.settings, self.save, self.written = settings, save, []

    def __call__(self, step: int) -> Path:
        path = self.settings.folder / self.settings.name.format(step=step)
        self.save(path, step)
        self.written.append(path)
        if self.settings.keep is not None:
            for old in self.written[: -self.settings.keep]:
                old.unlink(missing_ok=True)
                old.with_suffix(".safetensors").unlink(missing_ok=True)  # of --save_format
            self.written = self.written[-self.settings.keep :]
        return path


class Metrics:
    """metrics.jsonl, one line an update; a resumed run drops the lines it will write again."""

    def __init__(self, path: Path, first_step: int):
        self.path = path
        kept = []
        if first_step and path.exists():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= first_step]
        path.write_text("".join(line + "\n" for line in kept))

    def add(self, record: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf


def compile_first(trainer: Trainer, batch: MicroBatch, stages: Timings, hold: Callable[[], bool] = lambda: False) -> None:
    """Compile the graph for micro-batches of this shape unless that is done; `hold` as in `waiting`."""
    if not trainer.compiled:
        with stages("compilation"), waiting("compiling the training graph", hold):
            trainer.compile(batch)


def fit(
    trainer: Trainer,
    make_batch: BatchMaker,
    settings: LoopSettings,
    save: Callable[[Path, int], None],
    stages: Timings,
    infer: Optional[Callable[[int], None]] = None,
    ranks: Ranks = Ranks(),
) -> Path:
    """Train from `trainer.step` to the last update; returns the last checkpoint. Only rank 0 calls save and infer."""
    total, accumulation = trainer.config.data.total_step, make_batch.schedule.accumulation
    main = ranks.is_main
    checkpoints = Checkpoints(settings, save)
    metrics = Metrics(settings.folder / "metrics.jsonl", trainer.step) if main else None
    first = trainer.step
    last = settings.folder / settings.name.format(step=first)
    with bar(None, "training", total=total, initial=trainer.step, unit="step") as progress:
        while trainer.step < total:
            step, start = trainer.step, time.perf_counter()
            batches = [make_batch(step, micro, ranks.rank) for micro in range(accumulation)]
            compile_first(trainer, batches[0], stages)
            with stages("first step" if step == first else "further steps"):
                update = trainer.update(batches)
            done, seconds = step + 1, time.perf_counter() - start
            progress.update()
            if not main:
                continue
            instance, classes = update.instance_loss, update.class_loss
            loss = instance + make_batch.schedule.prior_loss_weight * (classes or 0.0)
            record = {"step": done, "loss": loss, "instance_loss": instance, "class_loss": classes}
            record |= {"lr": update.lr, "grad_norm": update.grad_norm if np.isfinite(update.grad_norm) else None}
            record |= {"loss_scale": update.loss_scale, "skipped": trainer.skipped, "seconds": round(seconds, 4)}
            metrics.add(record)
            progress.set_postfix(loss=f"{record['loss']:.4f}", refresh=False)
            if update.skipped:
                log.warning(
                    "step %d: the gradient was not finite, nothing was applied (%d skipped so far)", done, trainer.skipped
                )
            if done % settings.log_every == 0:
                log.info(
                    "step %d/%d: loss %.4f, lr %.3g, grad norm %.4g, %.2f s",
                    *(done, total, record["loss"], update.lr, update.grad_norm, seconds),
                )
            if done % settings.save_every == 0 or done == total:
                with stages("saving"):
                    last = checkpoints(done)
                    plot_losses(metrics.path, settings.folder / "loss.png")
            if infer is not None and settings.infer_every and (done % settings.infer_every == 0 or done == total):
                with stages("progress pictures"):
                    infer(done)
    return last
