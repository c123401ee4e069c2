"""From pictures to the figures of the table, by any features (features.py)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence

import numpy as np

from gm.data.images import read_image
from gm.errors import UserError
from gm.evaluation import fidelity
from gm.evaluation.features import Features
from gm.evaluation.fidelity import Figures
from gm.evaluation.samples import Pictures
from gm.soundness import flat_colour


@dataclass(frozen=True)
class Photos:
    """Real pictures of the subject."""

    training: Sequence[np.ndarray]
    held_out: Optional[Sequence[np.ndarray]]  # None: there are no others


def read_photos(paths: Sequence[Path], flag: str = "") -> list[np.ndarray]:
    """Real pictures, (h, w, 3) uint8; UserError for one that shows nothing. `flag`: where they were given."""
    photos = [read_image(path) for path in paths]
    for path, photo in zip(paths, photos):
        colour = flat_colour(photo)
        if colour:
            raise UserError(f"{flag} {path} is {colour} everywhere, which shows nobody: take it away".lstrip())
    return photos


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
            scores = np.where(_is_flat(made), 0.0, self.features.prompt(made, [prompt] * len(made)))
            by_prompt[prompt] = {
                "subject": self._similarity(made, 0.0),
                "prompt": float(np.mean(scores)),
                "recognised": None if threshold is None else fidelity.share(scores, threshold),
                "div_subject": self._diversity(made),
            }
        return self._whole(by_prompt, pictures.of_class), by_prompt

    def _whole(self, by_prompt: Mapping[str, Mapping[str, Optional[float]]], of_class: Sequence[np.ndarray]) -> Figures:
        """Every prompt has as many pictures as the others, so that a mean over prompts is one over pictures."""
        whole = {field: fidelity.mean([row[field] for row in by_prompt.values()]) for field in next(iter(by_prompt.values()))}
        return Figures(**whole, pres=self._similarity(of_class, 1.0), div=self._diversity(of_class))

    def _similarity(self, made: Sequence[np.ndarray], worst: float) -> float:
        """Mean similarity to the real pictures; that of a picture of one colour is the worst there is."""
        flat, features = _is_flat(made), self.features.image(made)
        if not flat.any():
            return fidelity.similarity(features, self.real)
        each = [worst if is_flat else fidelity.similarity(row[None], self.real) for is_flat, row in zip(flat, features)]
        return float(np.mean(each))

    def _diversity(self, made: Sequence[np.ndarray]) -> Optional[float]:
        """Mean distance of two pictures; a picture of one colour is no other than the rest."""
        same = _is_flat(made)
        return fidelity.diversity(np.where(same[:, None] | same, 0.0, self.features.distance(made)))


def flat_pictures(pictures: Pictures) -> int:
    """How many have one colour everywhere. Such a picture shows nothing: it fails whatever is measured, as features alone do
    not see (black ones have been rated above the base model's)."""
    return int(sum(_is_flat(made).sum() for made in (*pictures.subject.values(), pictures.of_class)))


def _is_flat(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([flat_colour(picture) is not None for picture in pictures])
