"""What pictures are compared by: the judge that comes with this project, or any features of your own.

--features FILE.py, or FILE.py:NAME, takes an object with the three methods of `Features` from a Python file: NAME (by
default `features`) is called without arguments and returns it. tools/features/clip_dino.py is such a file, with CLIP, DINO and
LPIPS as in the paper, for weights in local folders.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Optional, Protocol, Sequence

import numpy as np

from gm.errors import UserError

METHODS = ("image", "prompt", "distance")


class Features(Protocol):
    """pictures: n arrays (h, w, 3) uint8. Those of one call to `distance` have one size."""

    threshold: Optional[float]  # the score from which on what was asked counts as recognised; None: there is none

    def image(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, d), one row a picture: the smaller the angle between two rows, the more alike what they show."""

    def prompt(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """(n,): how far each picture shows what its prompt asks for. May raise UserError for a prompt it cannot judge."""

    def distance(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """(n, n): how different each two pictures are, 0 on the diagonal."""


class Checked:
    """Features of a file, whose results are looked at: a wrong shape or a number that is not finite is a UserError."""

    def __init__(self, features: Features, name: str):
        self.features, self.name = features, name
        self.threshold: Optional[float] = getattr(features, "threshold", None)

    def image(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self._result("image", (len(pictures), None), pictures)

    def prompt(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        return self._result("prompt", (len(pictures),), pictures, prompts)

    def distance(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        return self._result("distance", (len(pictures), len(pictures)), pictures)

    def _result(self, method: str, shape: tuple, *arguments) -> np.ndarray:
        try:
            result = np.asarray(getattr(self.features, method)(*arguments), np.float64)
        except UserError:
            raise
        except Exception as error:  # somebody else's code: any kind
            raise UserError(f"--features {self.name}: its {method}() failed ({type(error).__name__}: {error})") from error
        fits = len(result.shape) == len(shape) and all(b in (None, a) for a, b in zip(result.shape, shape))
        if not fits:
            wanted = ", ".join("d" if side is None else str(side) for side in shape)
            raise UserError(f"--features {self.name}: its {method}() gave shape {result.shape}, but ({wanted}) is needed")
        if not np.isfinite(result).all():
            raise UserError(f"--features {self.name}: its {method}() gave numbers that are not finite")
        return result


def load_features(name: str) -> Features:
    """What the Python file `FILE.py[:FUNCTION]` makes."""
    path, _, function = name.partition(":")
    if not path.endswith(".py"):
        raise UserError(f"--features {name} is neither judge nor a Python file: give FILE.py or FILE.py:FUNCTION")
    make = getattr(_module(Path(path), name), function or "features", None)
    if not callable(make):
        raise UserError(f"--features {name}: {path} has no function {function or 'features'}: see gm/evaluation/features.py")
    try:
        features = make()
    except UserError:
        raise
    except Exception as error:  # somebody else's code: any kind
        raise UserError(f"--features {name}: {function or 'features'}() failed ({type(error).__name__}: {error})") from error
    missing = [method for method in METHODS if not callable(getattr(features, method, None))]
    if missing:
        raise UserError(f"--features {name}: what it makes has no {', '.join(missing)}(): see gm/evaluation/features.py")
    return Checked(features, name)


def _module(path: Path, name: str):
    if not path.is_file():
        raise UserError(f"--features {name}: there is no file {path}: give a Python file")
    spec = importlib.util.spec_from_file_location(f"features_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and MindSpore's compiler look for it
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # so that the file can be more than one
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # somebody else's code: any kind
        raise UserError(f"--features {name}: {path} cannot be run ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(folder)
    return module
