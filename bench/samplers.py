"""How far our samplers are from those of k-diffusion and diffusers, which tests/samplers_elsewhere.py runs beside them.

    python bench/samplers.py            writes bench/samplers.md; 10 s on one core
    python bench/samplers.py --sheet    writes docs/samplers.png, pictures of every sampler by the small model

Each pair has the same denoiser, exact for a mixture of three normal distributions, the same noise levels and the same noise in
every draw. Ours compute in float32, the references in float64.
"""

import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np
from PIL import Image

from gm.diffusion.names import SAMPLER_NAMES
from gm.pictures import contact_sheet
from samplers_elsewhere import PAIRS, STEPS, difference

PACKAGES = ("k-diffusion", "diffusers", "torch", "numpy")


def table() -> str:
    """Sampler x reference x the largest difference, relative to the largest number of the latent."""
    rows = [("sampler", "reference", *(f"{steps} steps" for steps in STEPS)), ("---",) * (2 + len(STEPS))]
    for pair in sorted(PAIRS, key=lambda pair: pair.words):
        rows.append((*pair.words, *(f"{difference(pair, steps):.0e}" for steps in STEPS)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def sheet(path: Path) -> None:
    """Write the pictures of four seeds by every sampler, on the small model, as one PNG."""
    lines = []
    for names in SAMPLER_NAMES.values():
        few = ", steps: 8, guidance_scale: 1" if names[0] in ("LCM", "TCD") else ""
        lines.append(f'- {{prompt: "a red dog on the grass", sampler: "{names[0]}"{few}}}')
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.yaml"
        prompts.write_text("\n".join(lines))
        small = ROOT / "configs/inference/small_sdxl.yaml", ROOT / "checkpoints/small_sdxl.safetensors"
        words = [sys.executable, ROOT / "demo/sampling_without_streamlit.py", "--config", small[0], "--weight", small[1]]
        words += ["--prompt", prompts, "--sample_step", 20, "--num_cols", 4, "--seed", 3, "--height", 64, "--width", 64]
        words += ["--batch_size", 4, "--device_target", "CPU", "--save_path", folder]
        subprocess.run([str(word) for word in words], check=True)
        pictures = [np.asarray(Image.open(one)) for one in sorted(Path(folder).glob("0*.png"))]
    rows = [pictures[first : first + 4] for first in range(0, len(pictures), 4)]
    left, right = (contact_sheet(*half, cell=96) for half in _halves(rows, [names[0] for names in SAMPLER_NAMES.values()]))
    Image.fromarray(np.concatenate((left, right), 1)).save(path)


def _halves(rows: list, names: list) -> list:
    half = len(rows) // 2
    return [(rows[:half], names[:half]), (rows[half:], names[half:])]


def main() -> None:
    """Write the table and what it was made with, or the sheet."""
    if sys.argv[1:] == ["--sheet"]:
        return sheet(ROOT / "docs" / "samplers.png")
    made = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    text = f"# Samplers beside k-diffusion and diffusers\n\n{table()}\n\nPython {platform.python_version()}, {made}.\n"
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
