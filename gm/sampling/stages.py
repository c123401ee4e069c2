"""The second stage: SDXL's refiner goes on from the latents of the base (arXiv 2307.01952, section 2.5).

Either both share one schedule: the base stops with the noise of its last steps left, which the refiner takes away. Or the base
comes to the end, and the refiner does the last steps once more on its latents with new noise.

    refiner = refiner_of(options, config, base.source)        # checks its files
    refiner.check(settings)
    base.embed(prompts), refiner.embed(prompts)
    begun = first_latents(base, batches, refiner.shares, 32)  # of all pictures, in a process of its own
    refiner.load()
    pictures = refiner(begun of a batch, prompts, negative_prompts, settings, seeds, what)

Both models at once are too much for many machines: the base's is only there while all latents are made.
latents (B, z, h, w)
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Sequence

import numpy as np

from gm.checkpoint.weights import split_weight_argument
from gm.config.types import Config, SampleSettings
from gm.diffusion.samplers import SAMPLERS
from gm.diffusion.schedule import sampling_sigmas
from gm.encoding.source import Source, source_of
from gm.encoding.text import TextEmbedding
from gm.errors import UserError
from gm.options.refiner import REFINER, REFINER_WEIGHT, RefinerOptions
from gm.process import run_in_subprocess
from gm.sampling.jobs import Asked
from gm.sampling.making import Maker
from gm.sampling.pipeline import Pipeline
from gm.sampling.start import Start, levels


class Begun(NamedTuple):
    """What the first stage leaves of a picture."""

    latent: np.ndarray  # (z, h, w)
    start: Start  # of its batch: what its last pass would have begun with alone
    row: int  # there


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
        second = self.shares.second(start, _nothing(), 0)
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

    def embed(self, prompts: Sequence[str]) -> None:
        """Embed the prompts, with the refiner's own encoder, in a process of its own."""
        self.pipeline.embed(prompts)

    def load(self) -> None:
        """Load the refiner's UNet and the VAE."""
        self.pipeline.load()

    def steps(self, settings: SampleSettings, start: Start = Start()) -> int:
        """That it does of such pictures, `start` of the base alone."""
        return len(levels(settings, self.table, self.shares.second(start, _nothing(), 0))) - 1

    def __call__(
        self,
        begun: Sequence[Begun],
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        settings: SampleSettings,
        seeds: Sequence[int],
        what: str,
    ) -> list[np.ndarray]:
        """Pictures (h, w, 3) uint8 of what the base has begun; `settings` of its last pass. The noise is what comes in a seed's
        sequence after that of the base, so no noise is there twice."""
        start = _joined([(one.start, one.row) for one in begun])
        drawn = noises_of(settings, self.table, self.shares.first(start))
        second = self.shares.second(start, np.stack([one.latent for one in begun]), drawn)
        texts = self.pipeline.texts_of(prompts, negative_prompts)
        return self.pipeline.pictures(*texts, told_scores(settings, self.scores), seeds, what, second)


def _joined(rows: Sequence[tuple[Start, int]]) -> Start:
    """What these rows of batches start with together."""
    first, _ = rows[0]
    arrays = {one.name: getattr(first, one.name) for one in fields(first) if isinstance(getattr(first, one.name), np.ndarray)}
    each = {
        name: np.stack([getattr(start, name)[row] for start, row in rows]) for name, array in arrays.items() if len(array) > 1
    }
    return replace(first, **each)


def _nothing() -> np.ndarray:
    return np.zeros((1, 1, 1, 1), np.float32)


def noises_of(settings: SampleSettings, table: np.ndarray, start: Start) -> int:
    """How many noises a pass draws for a picture: the first, and those of later steps, which a run on nothing shows."""
    drawn = 0 if start.since else 1

    def draw(sigma: float, following: float) -> np.ndarray:
        nonlocal drawn
        drawn += 1
        return nothing

    nothing = _nothing()
    SAMPLERS[settings.sampler](lambda x, sigma: nothing, nothing, levels(settings, table, start), draw, lambda steps: steps)
    return drawn


def first_latents(
    base: Pipeline, batches: Sequence[Sequence[Asked]], shares: Shares, multiple: int, graphs: Sequence[tuple] = ()
) -> dict[Asked, Begun]:
    """What the base makes of each picture, in a process of its own, whose memory is free afterwards; the prompts must have been
    embedded. `multiple`: of a side, in pixels; `graphs`: as Pipeline.keeping_graphs."""
    source = replace(base.source, machine=base.source.machine.beside())
    made = run_in_subprocess(_first_latents, source, base.texts, list(batches), shares, multiple, list(graphs))
    return {
        one: Begun(latents[row], start, row) for batch, (latents, start) in zip(batches, made) for row, one in enumerate(batch)
    }


def _first_latents(
    source: Source,
    texts: dict[str, TextEmbedding],
    batches: Sequence[Sequence[Asked]],
    shares: Shares,
    multiple: int,
    graphs: Sequence[tuple],
) -> list[tuple[np.ndarray, Start]]:
    source.machine.enter()
    pipeline = Pipeline(source)
    pipeline.texts = texts
    pipeline.load()
    maker, found = Maker(pipeline.pictures, multiple, shares.first), []
    with pipeline.keeping_graphs(graphs):
        for number, batch in enumerate(batches, 1):
            given = pipeline.texts_of([one.words for one in batch], [one.options.negative_prompt for one in batch])
            found.append(maker.latents(batch, *given, f"base {number}/{len(batches)}"))
    return found
