"""The flags of the second stage, SDXL's refiner, by the names of the earlier MindSpore example. No MindSpore import."""

from dataclasses import dataclass
from typing import Optional

from gm.errors import UserError
from gm.options.parser import option

REFINER = "configs/inference/sd_xl_refiner.yaml"
REFINER_WEIGHT = "checkpoints/sd_xl_refiner_1.0.safetensors"
STRENGTH = 0.15  # usual share of the refiner
GOOD, BAD = 6.0, 2.5  # usual aesthetic scores
_ONLY_WITH = ("pipeline_config", "pipeline_weight", "stage2strength", "finish_denoising", "refiner_switch")


@dataclass(frozen=True)
class RefinerOptions:
    """Part of SampleOptions."""

    add_pipeline: bool = option(False, "make the last steps with SDXL's refiner", group="second stage")
    pipeline_config: Optional[str] = option(None, "the refiner", metavar="YAML", shown=REFINER, group="second stage")
    pipeline_weight: Optional[str] = option(
        None,
        "the refiner's weights, then LoRA of the refiner, separated by commas; those of --weight act on the base alone",
        metavar="BASE[,LORA]",
        shown=REFINER_WEIGHT,
        group="second stage",
    )
    stage2strength: Optional[float] = option(
        None, "the refiner's share of the steps", above=0, most=1, shown=f"{STRENGTH:g}", group="second stage"
    )
    finish_denoising: Optional[bool] = option(
        None,
        "True: the base stops that much before the end and leaves its noise to the refiner; False: the base comes to the end, "
        "and the refiner goes over the latent with new noise",
        shown="True",
        group="second stage",
    )
    refiner_switch: Optional[float] = option(
        None,
        "share of the steps after which the refiner goes on, as A1111 says it: 0.8 is --stage2strength 0.2",
        above=0,
        most=1,
        shown="1 - stage2strength",
        group="second stage",
    )
    aesthetic_score: Optional[float] = option(
        None, "aesthetic score that the refiner is told", least=0, most=10, shown=f"{GOOD:g}", group="sizes SDXL is told"
    )
    negative_aesthetic_score: Optional[float] = option(
        None, "the same beside the negative prompt", least=0, most=10, shown=f"{BAD:g}", group="sizes SDXL is told"
    )

    def check_refiner(self) -> None:
        """UserError where something is said about a second stage that there is not, or twice."""
        given = [name for name in _ONLY_WITH if getattr(self, name) is not None]
        if given and not self.add_pipeline:
            raise UserError(f"--{given[0]} is about the second stage, and there is none: give --add_pipeline True as well")
        if self.refiner_switch is not None and (self.stage2strength, self.finish_denoising) != (None, None):
            raise UserError(
                f"--refiner_switch {self.refiner_switch:g} says when the refiner goes on, as do --stage2strength and "
                "--finish_denoising: give one of them"
            )

    def check_scores(self, is_refiner: bool) -> None:
        """UserError where scores are given to models that have none; `is_refiner`: whether the model of --config is one."""
        for name in ("aesthetic_score", "negative_aesthetic_score"):
            if getattr(self, name) is not None and not (is_refiner or self.add_pipeline):
                raise UserError(f"--{name} is told to the refiner alone: give --add_pipeline True, or the refiner as --config")

    @property
    def refiner_starts(self) -> Optional[float]:
        """Share of the steps after which the refiner goes on where the base stops; None where the base comes to the end."""
        if self.refiner_switch is not None:
            return self.refiner_switch
        return None if self.finish_denoising is False else 1.0 - self.refiner_strength

    @property
    def refiner_strength(self) -> float:
        """The refiner's share of the steps, where the base comes to the end."""
        return STRENGTH if self.stage2strength is None else self.stage2strength

    @property
    def refiner_scores(self) -> tuple[float, float]:
        """The aesthetic scores beside the prompt and beside the negative prompt."""
        given = zip((self.aesthetic_score, self.negative_aesthetic_score), (GOOD, BAD))
        good, bad = (usual if score is None else score for score, usual in given)
        return good, bad
