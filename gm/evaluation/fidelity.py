"""The figures of the DreamBooth paper (arXiv 2208.12242, sections 4.2 and 4.3) from features. Numpy alone.

Where features come from is features.py. features (n, d): one row a picture, of any length; distances (n, n).
"""

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np


@dataclass(frozen=True)
class Figures:
    """One row of the table; None where a figure has no meaning."""

    subject: float  # subject fidelity: similarity of its pictures to real ones of the subject, at most 1
    prompt: Optional[float]  # prompt fidelity: mean score of "is the asked there"
    recognised: Optional[float]  # share of the pictures whose score reaches the features' threshold
    pres: Optional[float]  # similarity of pictures of the class to the subject: lower is better
    div: Optional[float]  # distance of pictures of the class from each other: higher is better
    div_subject: Optional[float]  # the same for pictures of the subject with one prompt, as in the paper


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Mean cosine similarity over all pairs of a row of `first` (n, d) and one of `second` (m, d): DINO and CLIP-I."""
    return float((_unit(first) @ _unit(second).T).mean())


def similarity_among(features: np.ndarray) -> Optional[float]:
    """Mean cosine similarity of two different rows of `features` (n, d); None for fewer than two."""
    unit = _unit(features)
    return diversity(unit @ unit.T)


def diversity(distances: np.ndarray) -> Optional[float]:
    """Mean entry for two different pictures of a matrix for all pairs (n, n); None for fewer than two pictures."""
    count = len(distances)
    if count < 2:
        return None
    return float((distances.sum() - np.trace(distances)) / (count * (count - 1)))


def share(scores: np.ndarray, threshold: float) -> float:
    """Share of the scores (n,) that reach the threshold."""
    return float((np.asarray(scores) >= threshold).mean())


def mean(values: Sequence[Optional[float]]) -> Optional[float]:
    """Mean of the values that there are; None when there are none."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def way(base: float, tuned: float, real: float) -> Optional[float]:
    """How far a figure has come from that of the base model (0) to that of real pictures (1); None where those are equal."""
    return (tuned - base) / (real - base) if real != base else None


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
