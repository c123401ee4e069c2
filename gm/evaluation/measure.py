"""From pictures to the figures of the table, by any features (features.py)."""

from dataclasses import dataclass
from typing import Mapping, Optional, Sequence

import numpy as np

from gm.evaluation import fidelity
from gm.evaluation.features import Features
from gm.evaluation.fidelity import Figures
from gm.evaluation.samples import Pictures


@dataclass(frozen=True)
class Photos:
    """Real pictures of the subject."""

    training: Sequence[np.ndarray]
    held_out: Optional[Sequence[np.ndarray]]  # None: there are no others


class Measure:
    """Compares pictures with the held-out photos, or with the training photos where there are no others."""

    def __init__(self, features: Features, photos: Photos, prompts: Sequence[str]):
        """UserError when the features cannot deal with one of the prompts; tried on a photo, before anything is sampled."""
        self.features = features
        self.training = features.image(photos.training)
        self.real = self.training if photos.held_out is None else features.image(photos.held_out)
        self.alone = photos.held_out is None
        features.prompt([photos.training[0]] * len(prompts), prompts)
        features.distance([photos.training[0]] * 2)

    def real_pictures(self) -> Figures:
        """The training photos against the held-out ones; without those, against each other."""
        subject = fidelity.similarity_among(self.real) if self.alone else fidelity.similarity(self.training, self.real)
        return Figures(subject, None, None, None, None, None)

    def model(self, pictures: Pictures) -> tuple[Figures, dict[str, dict[str, Optional[float]]]]:
        """The figures of what a model made, and those of the subject for each prompt."""
        threshold, by_prompt = self.features.threshold, {}
        for prompt, made in pictures.subject.items():
            scores = self.features.prompt(made, [prompt] * len(made))
            by_prompt[prompt] = {
                "subject": fidelity.similarity(self.features.image(made), self.real),
                "prompt": float(np.mean(scores)),
                "recognised": None if threshold is None else fidelity.share(scores, threshold),
                "div_subject": fidelity.diversity(self.features.distance(made)),
            }
        return self._whole(by_prompt, pictures.of_class), by_prompt

    def _whole(self, by_prompt: Mapping[str, Mapping[str, Optional[float]]], of_class: Sequence[np.ndarray]) -> Figures:
        """Every prompt has as many pictures as the others, so that a mean over prompts is one over pictures."""
        whole = {field: fidelity.mean([row[field] for row in by_prompt.values()]) for field in next(iter(by_prompt.values()))}
        pres = fidelity.similarity(self.features.image(of_class), self.real)
        return Figures(**whole, pres=pres, div=fidelity.diversity(self.features.distance(of_class)))
