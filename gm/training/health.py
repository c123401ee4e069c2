"""Whether a run is well, from its updates: numbers that are none, a loss that explodes, updates that take long.

Each rule says its sentence; what follows from it is loop.py's. The losses are those of metrics.jsonl.
"""

import math
import time
from collections import deque
from statistics import median
from typing import Callable, Optional

import numpy as np

from gm.training.step import LossScale, Update

MOST = 20  # updates in a row without usable numbers
RECENT, BEFORE = 10, 100  # losses whose medians are compared
ROSE, ROSE_EARLY = 10.0, 1000.0  # how many times higher is an explosion; with fewer than EARLY losses before
EARLY = 50
SLOW, USUAL = 10.0, 50  # how many times the median of so many updates is long
SHORTEST, AGAIN = 1.0, 600.0  # seconds: of an update that is called long, and between two such messages


class BadUpdates:
    """Counts the updates whose loss or gradient is not finite."""

    def __init__(self, dynamic: bool) -> None:
        """`dynamic`: the loss scale adapts."""
        self._dynamic = dynamic
        self.updates, self.bad, self.in_a_row = 0, 0, 0

    def add(self, update: Update) -> None:
        bad = update.skipped or not (math.isfinite(update.loss) and math.isfinite(update.grad_norm))
        self.updates += 1
        self.bad += bad
        self.in_a_row = self.in_a_row + 1 if bad else 0

    def hopeless(self, scale: LossScale) -> bool:
        """Whether there were so many in a row that no more can be expected; a loss scale that can still be halved may help."""
        return self.in_a_row >= MOST and not (scale.dynamic and scale.value > 1.0)

    def most(self) -> Optional[str]:
        """What is to be said at the end, where most updates were of no use."""
        if 2 * self.bad <= self.updates:
            return None
        return f"{self.bad} of {self.updates} updates had a loss or gradient that was not finite"

    @property
    def expected(self) -> bool:
        """Whether they can come from a dynamic loss scale that was finding its value."""
        return self._dynamic and self.in_a_row == 0


CAUSES = (
    "lower optim.base_learning_rate if the loss had risen before, train with --ms_amp_level O0 or a smaller --loss_scale if "
    "float16 overflows, and check that the base weights sample good pictures"
)


class Explosion:
    """Finds a loss that has become many times what it was, though finite, once.

    The losses of single updates differ a hundredfold with the noise level, so medians are compared, and the median of the last ten
    must be above all of the hundred before as well.
    """

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=RECENT + BEFORE)
        self.said = False

    def add(self, loss: float) -> Optional[str]:
        """A sentence when it has exploded now."""
        if self.said or not math.isfinite(loss):
            return None
        self._losses.append(loss)
        losses = np.array(self._losses)
        before, recent = losses[:-RECENT], float(np.median(losses[-RECENT:]))
        if not before.size:
            return None
        usual = float(np.median(before))
        times = ROSE if before.size >= EARLY else ROSE_EARLY
        if usual <= 0 or recent <= times * usual or recent <= before.max():
            return None
        self.said = True
        return (
            f"the loss has risen from about {usual:.3g} to about {recent:.3g}: the training diverges, most likely because the rate "
            "is too high; end it, go back to a LoRA from before and lower optim.base_learning_rate, or give --clip_grad True"
        )


class SlowUpdates:
    """Finds updates that take ten times as long as usual, and says so at most every ten minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds: deque[float] = deque(maxlen=USUAL)
        self._clock, self._said = clock, -math.inf

    def add(self, seconds: float) -> Optional[str]:
        """A sentence when the update was slow."""
        usual = median(self._seconds) if len(self._seconds) >= RECENT else math.inf
        self._seconds.append(seconds)
        if seconds < max(SLOW * usual, SHORTEST) or self._clock() - self._said < AGAIN:
            return None
        self._said = self._clock()
        return (
            f"an update took {seconds:.1f} s, usually it is {usual:.2g} s: is the memory full (swapping), does another process "
            "compute here, or is the device too hot?"
        )
