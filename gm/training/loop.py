"""The training loop: draws -> micro-batches -> updates, and what is written on the way.

`<save_path>/SDXL_base_1.0_<step>_lora.ckpt`, as .safetensors too if asked for, training_state.ckpt (for --resume),
metrics.jsonl and loss.png. When and how is checkpoints.py; what is watched is health.py.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional, Sequence

from gm.console import Hold, bar, log, never, viewed_by, waiting
from gm.ending import Interrupted, asked_to_stop, finishing
from gm.errors import UserError
from gm.parallel.ranks import Ranks
from gm.pictures import plot_losses
from gm.training.batches import MicroBatch
from gm.training.checkpoints import Checkpoints, SaveSettings
from gm.training.health import CAUSES, BadUpdates, Explosion, SlowUpdates
from gm.training.records import MayFail, Metrics
from gm.training.requests import SAMPLE, asked_for
from gm.training.step import Trainer, Update
from gm.training.timings import Timings

if TYPE_CHECKING:  # a run without one does not need what it imports
    from gm.training.evaluating import Evaluation


@dataclass(frozen=True)
class LoopSettings:
    folder: Path
    save_every: int  # updates between checkpoints
    keep: Optional[int]  # newest checkpoints that stay; None keeps all
    log_every: int  # updates between log lines
    infer_every: Optional[int]  # updates between progress pictures; None for none
    name: str = SaveSettings.name  # of a checkpoint
    save_minutes: Optional[float] = None  # between checkpoints as well
    evaluate_every: Optional[int] = None  # updates between evaluations; None for none
    continues: bool = False  # earlier parts of the run have written to the folder
    go_on: str = "the same command goes on"  # what to do when it was stopped

    @property
    def saving(self) -> SaveSettings:
        return SaveSettings(
            self.folder, self.save_every, self.keep, self.name, self.save_minutes, self.continues, self.evaluate_every
        )


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
    evaluation: Optional["Evaluation"] = None,
) -> Path:
    """Train from `trainer.step` to the last update, or until the evaluation shows that it has learned; returns the last
    checkpoint. Only rank 0 calls save and infer, and has an evaluation. `infer` draws the progress pictures, also where only
    somebody asks for them while it trains (requests.py).

    `make_batch(step, micro, rank)`; `accumulation`: micro-batches in an update. Interrupted, after an update whose result is
    saved, when the command is told to end. UserError when the numbers are of no use or the end cannot be saved.
    """
    total, first = trainer.config.data.total_step, trainer.step
    loop = _Loop(trainer, settings, Checkpoints(settings.saving, save, first), timings, ranks)
    learned = loop.evaluate(evaluation, first)
    with finishing("the update"), bar(None, "training", total=total, initial=first, unit="step") as progress:
        while trainer.step < total and not learned:
            step, start, graphs = trainer.step, time.perf_counter(), len(trainer.compiled)
            batches = [make_batch(step, micro, ranks.rank) for micro in range(accumulation)]
            compile_first(trainer, batches, timings)
            with timings("first step" if step == first else "further steps"):
                update = trainer.update(batches)
            seconds, done = time.perf_counter() - start, step + 1
            progress.update()
            progress.set_postfix(loss=f"{update.loss:.4f}", refresh=False)
            loop.record(update, seconds, usual=step > first and len(trainer.compiled) == graphs)
            loop.save(done)
            if infer is not None and settings.infer_every and (done % settings.infer_every == 0 or done == total):
                loop.show(infer, done)
            loop.answer(infer, done)
            learned = loop.evaluate(evaluation, done)
            loop.stop_if_asked(done)
    return loop.end() if trainer.step > first else loop.checkpoints.path(first)


class _Loop:
    """What is done after an update, on one of the ranks."""

    def __init__(self, trainer: Trainer, settings: LoopSettings, checkpoints: Checkpoints, timings: Timings, ranks: Ranks):
        self.trainer, self.settings, self.checkpoints, self.timings, self.ranks = (
            trainer,
            settings,
            checkpoints,
            timings,
            ranks,
        )
        self.first = trainer.step
        self.total, self.main = trainer.config.data.total_step, ranks.is_main
        self.metrics = Metrics(settings.folder / "metrics.jsonl", trainer.step) if self.main else None
        self.bad, self.explosion, self.slow = BadUpdates(trainer.loss_scale.dynamic), Explosion(), SlowUpdates()
        self._may_fail = MayFail()
        self._shown = -1  # the step of the last progress pictures

    def record(self, update: Update, seconds: float, usual: bool) -> None:
        """Write the update down and say what is to be said of it; `usual`: nothing was compiled in it."""
        trainer, done = self.trainer, self.trainer.step
        self.bad.add(update)
        if self.metrics is None:
            return
        record = {"step": done, "loss": update.loss, "instance_loss": update.instance_loss, "class_loss": update.class_loss}
        record |= {"lr": update.lr, "grad_norm": update.grad_norm}
        record |= {"loss_scale": update.loss_scale, "skipped": trainer.skipped, "seconds": round(seconds, 4)}
        self.metrics.add(record | dict(update.more))
        if update.skipped:
            log.warning("step %d: the gradient was not finite, nothing was applied (%d skipped so far)", done, trainer.skipped)
        for sentence in (self.explosion.add(update.loss), self.slow.add(seconds) if usual else None):
            if sentence:
                log.warning("step %d: %s", done, sentence)
        if done % self.settings.log_every == 0:
            log.info(
                "step %d/%d: loss %.4f, lr %.3g, grad norm %.4g, %.2f s",
                *(done, self.total, update.loss, update.lr, update.grad_norm, seconds),
            )

    def save(self, done: int) -> None:
        """Save where that is due, and end a training that has come to nothing."""
        if self.bad.hopeless(self.trainer.loss_scale):
            with self.ranks.agreeing():
                self._save_last(done, patient=False)
                raise UserError(
                    f"training stopped at step {done}, because in {self.bad.in_a_row} updates in a row the loss or gradient was "
                    f"not finite: the weights from before them, of step {done - self.bad.in_a_row}, are in "
                    f"{self.checkpoints.path(done)}; {CAUSES}"
                )
        if done == self.total:
            with self.ranks.agreeing():
                self._save_last(done)
        elif self.main and self.checkpoints.due(done):
            self._save(done)

    def _save(self, done: int) -> bool:
        with self.timings("saving"):
            self._check_finite()
            saved = self.checkpoints.save(done)
            self._plot()
        return saved

    def answer(self, infer: Optional[Callable[[int], None]], done: int) -> None:
        """Do what was asked for from outside. What is drawn is saved as well: while the sampling graph is compiled, which it may
        be here for the first time, a signal ends the command at once."""
        asked = asked_for(self.settings.folder) if self.main else frozenset()
        if asked and (self.checkpoints.saved_step == done or self._save(done)):
            log.info("step %d is saved, as was asked for: %s", done, self.checkpoints.path(done))
        if SAMPLE in asked and infer is not None and self._shown != done:
            self.show(infer, done)

    def _save_last(self, done: int, patient: bool = True) -> None:
        self._check_finite()
        if self.main:
            with self.timings("saving"):
                self.checkpoints.save_last(done, patient)
                self._plot()

    def _check_finite(self) -> None:
        """UserError when the weights are not: what has been saved is better."""
        name = self.trainer.not_finite()
        if name is not None:
            raise UserError(
                f"training stopped at step {self.trainer.step}, because {name} has become NaN or infinite, which is not saved: "
                f"{self.checkpoints.in_words()}; {CAUSES}"
            )

    def _plot(self) -> None:
        assert self.metrics is not None
        with self._may_fail("loss.png"):
            plot_losses(self.metrics.path, self.settings.folder / "loss.png")

    def show(self, infer: Callable[[int], None], done: int) -> None:
        """Progress pictures, which are left off when the command is told to end."""
        with self.timings("progress pictures"), self.trainer.as_saved(), self._may_fail("progress pictures"):
            with suppress(_Left), viewed_by(_leave_if_asked):
                infer(done)
        self._shown = done

    def evaluate(self, evaluation: Optional["Evaluation"], done: int) -> bool:
        """Score the run where that is due; whether it ends here, because it has learned: on all ranks, by what rank 0 has seen.
        Where a run begins, the base model is scored, and of one that goes on what is missing."""
        every = self.settings.evaluate_every
        if every is None or done % every and done not in (self.first, self.total):
            return False
        learned = None
        if evaluation is not None:
            with self.timings("evaluation"), self._may_fail("the evaluation"), suppress(_Left), viewed_by(_leave_if_asked):
                evaluation(done, self.checkpoints.path(done) if done % every == 0 or done == self.total else None)
            self.checkpoints.spared = evaluation.may_be_chosen()
            learned = evaluation.learned()
        if not any(self.ranks.share(learned is not None)) or done == self.total:
            return False
        if done > self.first:
            with self.ranks.agreeing():
                self._save_last(done)
        if learned is not None:
            log.info(
                "training ends after step %d of %d, as --stop_when_learned True asks: %s; without that flag --resume %s goes on",
                *(done, self.total, learned.reason, self.settings.folder),
            )
        return True

    def stop_if_asked(self, done: int) -> None:
        """Save and raise Interrupted when any of the ranks has been told to end."""
        signal = self.trainer.asked if self.ranks.size > 1 else asked_to_stop()
        if signal is None:
            return
        with self.ranks.agreeing():
            self._save_last(done, patient=False)
        saved = f"{self.checkpoints.path(done)} and the training state are saved"
        go_on = f", {self.settings.go_on}" if done < self.total else ""
        raise Interrupted(signal, f"stopped after step {done} of {self.total}: {saved}{go_on}")

    def end(self) -> Path:
        """The last checkpoint; UserError when it is hardly trained."""
        last, found = self.checkpoints.path(self.trainer.step), self.bad.most()
        if found and self.bad.expected:
            log.warning(
                "%s, while the loss scale was finding its value: train for longer, or give a smaller --loss_scale", found
            )
        elif found:
            with self.ranks.agreeing():
                raise UserError(f"{found}: {last} is saved, but hardly trained; {CAUSES}")
        return last


class _Left(Exception):
    """Progress pictures were left off."""


def _leave_if_asked(words: str, share: Optional[float]) -> None:
    if asked_to_stop() is not None:
        raise _Left
