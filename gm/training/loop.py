"""The training loop: draws -> micro-batches -> updates, and what is written on the way.

`<save_path>/SDXL_base_1.0_<step>_lora.ckpt`, as .safetensors too if asked for, training_state.ckpt (for --resume),
metrics.jsonl and loss.png.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Sequence

from gm.console import Hold, bar, log, never, waiting
from gm.parallel.ranks import Ranks
from gm.pictures import plot_losses
from gm.training.batches import MicroBatch
from gm.training.step import Trainer
from gm.training.timings import Timings


@dataclass(frozen=True)
class LoopSettings:
    folder: Path
    save_every: int  # updates between checkpoints
    keep: Optional[int]  # newest checkpoints that stay; None keeps all
    log_every: int  # updates between log lines
    infer_every: Optional[int]  # updates between progress pictures; None for none
    name: str = "SDXL_base_1.0_{step}_lora.ckpt"  # of a checkpoint


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


def _finite(number: Optional[float]) -> Optional[float]:
    """The number, or None where JSON has none for it."""
    return number if number is not None and math.isfinite(number) else None


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # cut off when the run was killed
        return math.inf


def compile_first(trainer: Trainer, batches: Sequence[MicroBatch], timings: Timings, hold: Hold = never) -> None:
    """Compile the graph of each of these shapes unless that is done; `hold` as in `waiting`."""
    new = [batch for batch in batches if batch.latent_shape not in trainer.compiled]
    for number, batch in enumerate(new):
        of = f" {number + 1} of {len(new)}, {8 * batch.latent_shape[3]} x {8 * batch.latent_shape[2]}" if len(new) > 1 else ""
        with timings("compilation"), waiting(f"compiling the training graph{of}", hold):
            trainer.compile(batch)


def fit(
    trainer: Trainer,
    make_batch: Callable[[int, int, int], MicroBatch],
    accumulation: int,
    settings: LoopSettings,
    save: Callable[[Path, int], None],
    timings: Timings,
    infer: Optional[Callable[[int], None]] = None,
    ranks: Ranks = Ranks(),
) -> Path:
    """Train from `trainer.step` to the last update; returns the last checkpoint. Only rank 0 calls save and infer.

    `make_batch(step, micro, rank)`; `accumulation`: micro-batches in an update.
    """
    total = trainer.config.data.total_step
    main = ranks.is_main
    checkpoints = Checkpoints(settings, save)
    metrics = Metrics(settings.folder / "metrics.jsonl", trainer.step) if main else None
    first = trainer.step
    last = settings.folder / settings.name.format(step=first)
    with bar(None, "training", total=total, initial=trainer.step, unit="step") as progress:
        while trainer.step < total:
            step, start = trainer.step, time.perf_counter()
            batches = [make_batch(step, micro, ranks.rank) for micro in range(accumulation)]
            compile_first(trainer, batches, timings)
            with timings("first step" if step == first else "further steps"):
                update = trainer.update(batches)
            done, seconds = step + 1, time.perf_counter() - start
            progress.update()
            if not main:
                continue
            record = {"step": done, "loss": _finite(update.loss)}
            record |= {"instance_loss": _finite(update.instance_loss), "class_loss": _finite(update.class_loss)}
            record |= {"lr": update.lr, "grad_norm": _finite(update.grad_norm)}
            record |= {"loss_scale": update.loss_scale, "skipped": trainer.skipped, "seconds": round(seconds, 4)}
            metrics.add(record | update.more)
            progress.set_postfix(loss=f"{update.loss:.4f}", refresh=False)
            if update.skipped:
                log.warning(
                    "step %d: the gradient was not finite, nothing was applied (%d skipped so far)", done, trainer.skipped
                )
            if done % settings.log_every == 0:
                log.info(
                    "step %d/%d: loss %.4f, lr %.3g, grad norm %.4g, %.2f s",
                    *(done, total, update.loss, update.lr, update.grad_norm, seconds),
                )
            if done % settings.save_every == 0 or done == total:
                with timings("saving"):
                    last = checkpoints(done)
                    plot_losses(metrics.path, settings.folder / "loss.png")
            if infer is not None and settings.infer_every and (done % settings.infer_every == 0 or done == total):
                with timings("progress pictures"), trainer.as_saved():
                    infer(done)
    return last
