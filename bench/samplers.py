"""How far our samplers are from those of k-diffusion and diffusers, which tests/samplers_elsewhere.py runs beside them.

    python bench/samplers.py            writes bench/samplers.md; 10 s on one core

Each pair has the same denoiser, exact for a mixture of three normal distributions, the same noise levels and the same noise in
every draw. Ours compute in float32, the references in float64.
"""

import platform
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from samplers_elsewhere import PAIRS, STEPS, difference

PACKAGES = ("k-diffusion", "diffusers", "torch", "numpy")


def table() -> str:
    """Sampler x reference x the largest difference, relative to the largest number of the latent."""
    rows = [("sampler", "reference", *(f"{steps} steps" for steps in STEPS)), ("---",) * (2 + len(STEPS))]
    for pair in sorted(PAIRS, key=lambda pair: pair.words):
        rows.append((*pair.words, *(f"{difference(pair, steps):.0e}" for steps in STEPS)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Write the table and what it was made with."""
    made = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    text = f"# Samplers beside k-diffusion and diffusers\n\n{table()}\n\nPython {platform.python_version()}, {made}.\n"
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
