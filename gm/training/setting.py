"""What every stage of a run is given and none changes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from gm.parallel.ranks import Ranks
from gm.runtime import Runtime
from gm.training.inputs import Inputs
from gm.training.precompute import Precompute
from gm.training.timings import Timings
from gm.training.weights import StartingWeights

if TYPE_CHECKING:  # a run without --evaluate_every does not need what it imports
    from gm.evaluation.measure import Measure


@dataclass(frozen=True)
class Setting:
    inputs: Inputs
    weights: StartingWeights
    machine: Runtime
    ranks: Ranks
    precompute: Precompute
    timings: Timings
    measure: "Optional[Measure]" = None  # of --evaluate_every, on rank 0
