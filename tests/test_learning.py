"""The question that matters: a short DreamBooth run on the small model must teach it the subject, and nothing else.

Bounds are far from what is reached, and farther from what a run that learns nothing, or the wrong thing, comes to.
"""

import json

import pytest

import tiny
import train_dreambooth
from gm.evaluation import report
from gm.evaluation.fidelity import Figures, way
from tools import draw_world, evaluate

WEIGHT = tiny.ROOT / "checkpoints" / "small_sdxl.safetensors"
STEPS = 120


def short_run(run, folder) -> dict[str, Figures]:
    """Train on five photos for STEPS updates, and evaluate: the rows of the table."""

    def command(module, *words) -> None:
        status, said = run(module, *words)
        assert status == 0, said

    for name, kind, number in (("photos", "training", 5), ("held_out", "held-out", 10)):
        command(draw_world, "--subject", kind, "--number", number, "--size", 64, "--output", folder / name)
    words = ["--config", tiny.ROOT / "configs/training/small_dreambooth_lora_cpu.yaml", "--set", f"data.total_step={STEPS}"]
    words += ["--instance_data_path", folder / "photos", "--instance_prompt", "A photo of a sks dog"]
    words += ["--class_data_path", folder / "class", "--class_prompt", "A photo of a dog", "--num_class_images", 12]
    words += ["--sample_step", 10, "--sample_batch_size", 8, "--save_path", folder]
    command(train_dreambooth, "--weight", WEIGHT, "--device_target", "CPU", *words)

    (folder / "prompts.txt").write_text("a {} swimming in a pool\na {} in the snow\n")
    words = ["--config", tiny.ROOT / "configs/inference/small_sdxl.yaml", "--size", 64, "--sample_step", 10]
    words += ["--lora", f"tuned={folder / f'SDXL_base_1.0_{STEPS}_lora.ckpt'}", "--prompts", folder / "prompts.txt"]
    words += ["--subject_photos", folder / "photos", "--held_out", folder / "held_out", "--num_seeds", 4]
    command(evaluate, "--weight", WEIGHT, "--device_target", "CPU", *words, "--output", folder / "evaluation")
    rows = json.loads((folder / "evaluation" / "evaluation.json").read_text())["rows"]
    return {name: Figures(**row) for name, row in rows.items()}


@pytest.mark.xdist_group("learning")
def test_a_short_run_learns_the_subject(tmp_path, run, kept_networks):
    rows = short_run(run, tmp_path)
    real, base, tuned = rows[report.REAL], rows[report.BASE], rows["tuned"]
    assert way(base.subject, tuned.subject, real.subject) >= 0.5, rows
    assert tuned.recognised >= 0.8 * base.recognised >= 0.5, rows
    assert way(base.pres, tuned.pres, tuned.subject) <= 0.75, rows  # other dogs are still other dogs
