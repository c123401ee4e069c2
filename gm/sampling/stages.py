"""The second stage: SDXL's refiner goes on from the latents of the base (arXiv 2307.01952, section 2.5).

Either both share one schedule: the base stops with the noise of its last steps left, which the refiner takes away. Or the base
comes to the end, and the refiner does the last steps once more on its latents with new noise.

    options.check_refiner()
    refiner = refiner_of(options, base.source)            # checks its files
    refiner.check(settings)
    base.embed(prompts), refiner.embed(prompts)
    latents = first_latents(base, [Pass(...), ...])       # of all pictures, in a process of its own
    refiner.load()
    pictures = refiner(latents, prompts, negative_prompts, settings, seeds, what)

Both models at once are too much for many machines: the base's is only there while all latents are made.
latents (B, z, h, w)
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Sequence

import numpy as np

from gm.config.load import load_config
from gm.config.types import SampleSettings
from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import sampling_sigmas
from gm.encoding.source import Source, source_of
from gm.encoding.text import TextEmbedding
from gm.errors import UserError
from gm.options.refiner import REFINER, REFINER_WEIGHT, RefinerOptions
from gm.process import run_in_subprocess
from gm.sampling.pipeline import Pipeline
from gm.sampling.start import Start, levels


class Pass(NamedTuple):
    """One batch of the first stage."""

    prompts: Sequence[str]
    negative_prompts: Sequence[str]
    settings: SampleSettings
    seeds: Sequence[int]
    what: str  # in words
    start: Start = Start()


def told_scores(settings: SampleSettings, scores: tuple[float, float]) -> SampleSettings:
    """What the refiner is told instead of the base's six numbers: original size, crop, and the aesthetic score, which is another
    beside the negative prompt."""
    negative = settings.negative_sizes or settings.sizes
    return replace(settings, sizes=(*settings.sizes[:4], scores[0]), negative_sizes=(*negative[:4], scores[1]))


def refiner_of(options: RefinerOptions, base: Source) -> "Refiner":
    """The second stage that is asked for, its files checked. UserError where it does not go with the base."""
    config = load_config(options.pipeline_config or REFINER, training=False)
    source = source_of(
        config,
        options.pipeline_weight or REFINER_WEIGHT,
        base.machine,
        base.max_tokens,
        vae=base.vae or base.weight.split(",")[0],  # what the latents are of
        flags=("--pipeline_weight", "--pipeline_config"),
    )
    return Refiner(base, source, options)


@dataclass(frozen=True)
class _Shares:
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
        if options.switch is not None and model.zero_terminal_snr != other.zero_terminal_snr:
            raise UserError(
                f"--pipeline_config {where} has other noise levels than --config (zero_terminal_snr), so the refiner cannot go on "
                "where the base stops: give --finish_denoising False"
            )
        self.shares = _Shares(1.0 if options.switch is None else options.switch, options.strength)
        self.scores = options.scores
        self.table = sampling_sigmas(model.num_timesteps, model.zero_terminal_snr)
        self.pipeline = Pipeline(source)

    def check(self, settings: SampleSettings, start: Start = Start()) -> None:
        """UserError where one of the stages has no step to do. `start`: of the base alone."""
        first, drawn = self.shares.first(start), 0
        second = self.shares.second(start, np.zeros((1, 1, 1, 1), np.float32), drawn)
        for stage, one in (("base", first), ("refiner", second)):
            if len(levels(settings, self.table, one)) < 2:
                share = (
                    f"switch after {self.shares.switch:g}"
                    if self.shares.switch < 1.0
                    else f"strength {self.shares.strength:g}"
                )
                raise UserError(
                    f"of {settings.steps} steps the {share} leaves none to the {stage}: give --refiner_switch, "
                    "--stage2strength or --sample_step with which both stages have some"
                )

    def embed(self, prompts: Sequence[str]) -> None:
        """Embed the prompts, with the refiner's own encoder, in a process of its own."""
        self.pipeline.embed(prompts)

    def load(self) -> None:
        """Load the refiner's UNet and the VAE."""
        self.pipeline.load()

    def first(self, start: Start = Start()) -> Start:
        """What the base's last pass starts with, where it would start with this alone."""
        return self.shares.first(start)

    def __call__(
        self,
        latents: np.ndarray,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        settings: SampleSettings,
        seeds: Sequence[int],
        what: str,
        start: Start = Start(),
    ) -> list[np.ndarray]:
        """Pictures (h, w, 3) uint8 of latents that a pass of the base with `start`, and `first` of it, has made. The noise is
        what comes in a seed's sequence after that of the base, so no noise is there twice."""
        drawn = noises_of(settings, self.table, self.shares.first(start))
        texts = self.pipeline.texts_of(prompts, negative_prompts)
        return self.pipeline.pictures(
            *texts, told_scores(settings, self.scores), seeds, what, self.shares.second(start, latents, drawn)
        )


def noises_of(settings: SampleSettings, table: np.ndarray, start: Start) -> int:
    """How many noises a pass draws for a picture: the first, and those of later steps, which a run on nothing shows."""
    drawn = 0 if start.since else 1

    def draw(sigma: float, following: float) -> np.ndarray:
        nonlocal drawn
        drawn += 1
        return nothing

    nothing = np.zeros((1, 1, 1, 1), np.float32)
    SAMPLERS[settings.sampler](lambda x, sigma: nothing, nothing, levels(settings, table, start), draw, lambda steps: steps)
    return drawn


def first_latents(base: Pipeline, passes: Sequence[Pass]) -> list[np.ndarray]:
    """The latents of each pass, made in a process of its own, whose memory is free afterwards; the prompts must have been embedded."""
    source = replace(base.source, machine=base.source.machine.beside())
    return run_in_subprocess(_first_latents, source, base.texts, list(passes))


def _first_latents(source: Source, texts: dict[str, TextEmbedding], passes: Sequence[Pass]) -> list[np.ndarray]:
    source.machine.enter()
    pipeline = Pipeline(source)
    pipeline.texts = texts
    pipeline.load()
    return [
        pipeline.pictures.latents(
            *pipeline.texts_of(one.prompts, one.negative_prompts), one.settings, one.seeds, one.what, one.start
        )
        for one in passes
    ]
