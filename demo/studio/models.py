"""The models of the page: what is sampled with, and the YAML that each is trained by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional, Sequence


@dataclass(frozen=True)
class Model:
    """A base model to choose."""

    name: str
    flags: Mapping[str, object]  # of sampling_without_streamlit.py
    weights: Sequence[str] = ()  # where its weights may be, the first that is there counts
    training: Optional[Mapping[str, str]] = None  # device -> YAML; None where it is not trained from the page

    @property
    def weight(self) -> str:
        """Of its base; the first place where nothing is there."""
        places = [*self.weights] or [str(self.flags.get("weight", ""))]
        return next((place for place in places if Path(place).exists()), places[0])

    @property
    def is_there(self) -> bool:
        return bool(self.weight) and Path(self.weight).exists()

    def yaml(self, device: str) -> Optional[str]:
        """The training YAML for this device."""
        return (self.training or {}).get(device)
