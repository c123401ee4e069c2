"""What belongs to each noise level in training, as tables by the timestep's index. Plain numpy."""

from dataclasses import dataclass
from typing import Optional

import numpy as np

from gm.config.types import LossConfig, ModelConfig, WeightingConfig
from gm.diffusion.schedule import train_sigmas
from gm.diffusion.weighting import level_weights


@dataclass(frozen=True)
class Levels:
    """Arrays (num_timesteps,) float64."""

    sigma: np.ndarray  # the noise beside a latent of unit weight; the last may be infinite
    weight: np.ndarray  # factor of the loss
    huber_c: Optional[np.ndarray]  # see `huber_thresholds`; None for a squared error

    @classmethod
    def of(cls, model: ModelConfig, weighting: WeightingConfig, loss: LossConfig) -> "Levels":
        """The levels of this model. The weights are those of the schedule that ends before noise alone, as in sd-scripts."""
        sigma = train_sigmas(model.num_timesteps, model.zero_terminal_snr)
        return cls(
            sigma=sigma,
            weight=level_weights(weighting, train_sigmas(model.num_timesteps), model.prediction),
            huber_c=huber_thresholds(loss, sigma) if loss.loss_type != "l2" else None,
        )


def huber_thresholds(loss: LossConfig, sigma: np.ndarray) -> np.ndarray:
    """The error above which each level's loss grows like |error|, for the sigma of every index (n,) (sd-scripts; the SNR
    schedule is that of arXiv 2403.16728): from 1 at no noise to huber_c at most noise, or huber_c everywhere."""
    if loss.huber_schedule == "snr":
        return (1 - loss.huber_c) / (1 + sigma) ** 2 + loss.huber_c
    share = np.arange(len(sigma)) / len(sigma) if loss.huber_schedule == "exponential" else 1.0
    return np.broadcast_to(loss.huber_c**share, sigma.shape)
