"""The second stage: SDXL's refiner goes on from the latents of the base (arXiv 2307.01952, section 2.5).

Either both share one schedule: the base stops with the noise of its last steps left, which the refiner takes away. Or the base
comes to the end, and the refiner does the last steps once more on its latents with new noise.

    refiner = refiner_of(options, config, base.source)    # checks its files
    refiner.check(settings, start)
    base.embed(prompts), refiner.pipeline.embed(prompts)
    latents = sampled_apart(base, batches, multiple, refiner.shares.first, graphs)    # of all, in a process of its own
    refiner.pipeline.load()
    pictures = refiner(batch, [latents[one] for one in batch], what)

Both models at once are too much for many machines: the base's is only there while all latents are made.
latents (B, z, h, w)
"""

from dataclasses import dataclass, replace
from typing import Sequence

import numpy as np

from gm.checkpoint.weights import split_weight_argument
from gm.config.types import Config, SampleSettings
from gm.diffusion.samplers import sampler_of
from gm.diffusion.schedule import sampling_sigmas
from gm.encoding.source import Source, source_of
from gm.errors import UserError
from gm.options.refiner import REFINER, REFINER_WEIGHT, RefinerOptions
from gm.sampling.jobs import Asked
from gm.sampling.making import Sampled, kept
from gm.sampling.pipeline import Pipeline
from gm.sampling.start import Start, levels


def told_scores(settings: SampleSettings, scores: tuple[float, float]) -> SampleSettings:
    """What the refiner is told instead of the base's six numbers: original size, crop, and the aesthetic score, which is another
    beside the negative prompt."""
    negative = settings.negative_sizes or settings.sizes
    return replace(settings, sizes=(*settings.sizes[:4], scores[0]), negative_sizes=(*negative[:4], scores[1]))


def refiner_of(options: RefinerOptions, config: Config, base: Source) -> "Refiner":
    """The second stage that is asked for, of the YAML `config`, its files checked. UserError where it does not go with the base."""
    source = source_of(
        config,
        options.pipeline_weight or REFINER_WEIGHT,
        base.machine,
        base.max_tokens,
        vae=base.vae or split_weight_argument(base.weight)[0],  # what the latents are of
        graphs=base.graphs,
        flags=("--pipeline_weight", "--pipeline_config"),
    )
    return Refiner(base, source, options)


NOTHING = np.zeros((1, 1, 1, 1), np.float32)  # a latent that only counts


@dataclass(frozen=True)
class Shares:
    """Which steps each stage does."""

    switch: float  # 1.0: the base comes to the end
    strength: float

    def first(self, start: Start) -> Start:
        return replace(start, until=self.switch) if self.switch < 1.0 else start

    def second(self, start: Start, latents: np.ndarray, drawn: int) -> Start:
        kept = start.latent if start.mask is not None else None
        rest = {"since": self.switch} if self.switch < 1.0 else {"strength": self.strength}
        return Start(latent=latents, spread=start.spread, mask=start.mask, kept=kept, drawn=drawn, **rest)


class Refiner:
    """latents of the base -> pictures. Making it checks the files; nothing is loaded yet."""

    def __init__(self, base: Source, source: Source, options: RefinerOptions):
        model, other = source.model, base.model
        where = options.pipeline_config or REFINER
        if not model.is_refiner:
            raise UserError(f"--pipeline_config {where} is of a base: give the refiner's YAML, {REFINER}")
        if other.is_refiner:
            raise UserError(
                "--add_pipeline makes the last steps of a base's pictures with the refiner: give a base as --config"
            )
        if (model.vae, model.scale_factor) != (other.vae, other.scale_factor):
            raise UserError(
                f"--pipeline_config {where} has another first stage than --config: give a refiner of the same latents"
            )
        if options.refiner_starts is not None and model.zero_terminal_snr != other.zero_terminal_snr:
            raise UserError(
                f"--pipeline_config {where} has other noise levels than --config (zero_terminal_snr), so the refiner cannot go on "
                "where the base stops: give --finish_denoising False"
            )
        self.shares = Shares(1.0 if options.refiner_starts is None else options.refiner_starts, options.refiner_strength)
        self.scores = options.refiner_scores
        self.table = sampling_sigmas(model.num_timesteps, model.zero_terminal_snr)
        self.pipeline = Pipeline(source)

    def check(self, settings: SampleSettings, start: Start = Start()) -> None:
        """UserError where one of the stages has no step to do. `start`: of the base alone."""
        second = self.shares.second(start, NOTHING, 0)
        for stage, one in (("base", self.shares.first(start)), ("refiner", second)):
            if len(levels(settings, self.table, one)) < 2:
                at = (
                    f"refiner_switch {self.shares.switch:g}"
                    if self.shares.switch < 1.0
                    else f"stage2strength {self.shares.strength:g}"
                )
                raise UserError(
                    f"--{at} leaves the {stage} none of {settings.steps} steps: give another, or more steps with --sample_step"
                )

    def steps(self, settings: SampleSettings, start: Start = Start()) -> int:
        """That it does of such pictures, `start` of the base alone."""
        return len(levels(settings, self.table, self.shares.second(start, NOTHING, 0))) - 1

    def __call__(self, batch: Sequence[Asked], sampled: Sequence[Sampled], what: str) -> list[np.ndarray]:
        """Pictures (h, w, 3) uint8 of what the base has made. The noise is what comes in a seed's sequence after that
        of the base, so no noise is there twice."""
        one, latents = sampled[0], np.stack([one.latent for one in sampled])
        texts = [asked.words for asked in batch], [asked.options.negative_prompt for asked in batch]
        start = self.shares.second(one.start, latents, noises_of(one.settings, self.table, self.shares.first(one.start)))
        settings, seeds = told_scores(one.settings, self.scores), [asked.options.seed for asked in batch]
        made = self.pipeline.pictures(*self.pipeline.texts_of(*texts), settings, seeds, what, start)
        return [kept(asked, picture) for asked, picture in zip(batch, made)]


def noises_of(settings: SampleSettings, table: np.ndarray, start: Start) -> int:
    """How many noises a pass draws for a picture: the first, and those of later steps, which a run on nothing shows."""
    drawn = 0 if start.since else 1

    def draw(sigma: float, following: float) -> np.ndarray:
        nonlocal drawn
        drawn += 1
        return NOTHING

    run = sampler_of(settings.sampler, table, settings.eta)
    run(lambda x, sigma: NOTHING, NOTHING, levels(settings, table, start), draw, lambda steps: steps)
    return drawn
