"""The topics of the page: which settings stand together."""

from dataclasses import dataclass

from studio.recipe import topics_learning as learning
from studio.recipe import topics_subject as subject
from studio.recipe.fields import Field
from studio.recipe.flags import GROUPS
from studio.words import later


@dataclass(frozen=True)
class Topic:
    """Keys of the YAML, and flags of the command below them."""

    title: str
    fields: tuple[Field, ...] = ()
    flags: tuple[str, ...] = ()


TOPICS = {  # how many class images there are is asked for beside their prompt
    "lora": Topic(later("LoRA"), subject.LORA),
    "text": Topic(later("Text encoders"), subject.TEXT),
    "optimizer": Topic(later("Optimizer"), learning.OPTIMIZERS),
    "rates": Topic(later("Rates"), learning.RATES),
    "loss": Topic(later("Loss and noise"), learning.LOSSES),
    "captions": Topic(later("Captions"), subject.CAPTION),
    "shapes": Topic(later("Crops and shapes"), subject.SHAPES),
    "masks": Topic(later("Masks"), subject.MASKING),
    "updates": Topic(later("Updates"), flags=GROUPS["updates"]),
    "class": Topic(later("Class images"), flags=GROUPS["class images"][1:]),
    "progress": Topic(later("Pictures on the way"), flags=GROUPS["progress pictures"]),
    "files": Topic(later("Saved files"), flags=GROUPS["results"]),
    "scores": Topic(later("Scores"), flags=GROUPS["evaluation"]),
    "machine": Topic(later("Machine"), subject.MEMORY, GROUPS["machine"]),
}
ALL: tuple[Field, ...] = subject.MAIN + tuple(field for topic in TOPICS.values() for field in topic.fields)
