"""How far a task is, over all its pictures, and how long the rest will take: from what the model says after each step."""

import time
from collections import deque
from statistics import mean
from typing import Callable, Optional, Sequence

REMEMBERED = 20  # steps and pictures whose time counts


class Pace:
    """Told of each picture's begin and end, and of all that the model says in between."""

    def __init__(self, steps: Sequence[int], clock: Callable[[], float] = time.monotonic):
        """`steps`: of each picture."""
        self._steps, self._clock = list(steps), clock
        self._left = set(range(len(steps)))  # places of pictures that are not there
        self._what, self._place = "", -1
        self._done = 0.0  # steps of the picture at work
        self._pass, self._passes, self._total = "", 0, 0  # what it is called, steps of those before it, its own steps
        self._last: Optional[float] = None  # when the step before began, where nothing else has been done since
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)  # of steps
        self._after: deque[float] = deque(maxlen=REMEMBERED)  # from a picture's last step until it is there
        self._started = False

    def begin(self, what: str, place: int) -> None:
        """A picture, which the model's words begin with `what`."""
        self._what, self._place, self._done, self._last = what, place, 0.0, None
        self._pass, self._passes, self._total = what, 0, 0

    def end(self) -> None:
        """The picture is there."""
        if self._last is not None:
            self._after.append(self._clock() - self._last)
        self._left.discard(self._place)
        self._place, self._done, self._started = -1, 0.0, True

    def see(self, words: str, share: Optional[float]) -> None:
        """What the model says: "picture 1 of 4, step 3 of 20" before a step, "picture 1 of 4, step 3 of 20, 5 s" in a long one."""
        name, comma, numbers = words.partition(", step ")
        said = numbers.partition(" of ")[2].partition(",")[0]
        if self._place < 0 or share is None or not name.startswith(self._what) or not said.isdigit():
            self._last = None  # something else takes its time
            return
        if name != self._pass:  # the second pass of a hires fix
            self._passes, self._pass = self._passes + self._total, name
        self._total, self._started = int(said), True
        now, done = self._clock(), self._passes + share * self._total
        if self._last is not None and done > self._done:
            self._seconds.append((now - self._last) / (done - self._done))
        if self._last is None or done > self._done:
            self._last = now
        self._done = done

    @property
    def share(self) -> Optional[float]:
        """Of all steps."""
        total = sum(self._steps)
        if not self._started or not total:
            return None
        return min(1.0, (total - self._steps_left) / total)

    @property
    def _steps_left(self) -> float:
        return sum(self._steps[place] for place in self._left) - self._done

    def seconds_left(self) -> Optional[float]:
        """None until a step has been timed."""
        if not self._seconds:
            return None
        after = mean(self._after) if self._after else 0.0
        return self._steps_left * mean(self._seconds) + len(self._left) * after
