"""What the flags of the evaluation during training mean, and which of them go together. No MindSpore import."""

from pathlib import Path
from typing import Any, Optional, Sequence

from gm.errors import UserError
from gm.options.evaluate import PLACES
from gm.options.prompts import read_prompts
from gm.texts import path_text

JUDGE_FILE = Path(__file__).resolve().parents[2] / "tools" / "toy" / "judge.py"  # the drawn world's features
NEED_EVALUATION = ("features", "held_out", "evaluate_prompts", "evaluate_seeds", "stop_when_learned")


def features_text(text: str) -> str:
    """FILE.py[:FUNCTION] of --features; `judge` is that of the drawn world."""
    return str(JUDGE_FILE) if text == "judge" else path_text(text)


def require_evaluation(options: Any) -> None:
    """UserError for a flag of the evaluation that cannot act, and where what compares the pictures was not said."""
    every = options.evaluate_every
    lost = next((name for name in NEED_EVALUATION if getattr(options, name) not in (None, False)), None)
    if every is None and lost:
        raise UserError(
            f"--{lost} {getattr(options, lost)} does nothing without --evaluate_every N: give that as well, or leave it away"
        )
    if every is not None and options.features is None:
        raise UserError(
            f"--evaluate_every {every} needs something that compares pictures: give --features FILE.py, e.g. "
            "tools/features/clip_dino.py, or for the drawn world --features judge"
        )


def prompts_of(file: Optional[str], subject: Optional[str], prompt: str) -> tuple[str, ...]:
    """The prompts of --evaluate_prompts, or the five of tools/evaluate.py, each once; {} is the subject. UserError where nothing
    says what it is called: `subject` is None where the photos' prompt does not tell."""
    prompts: Sequence[str] = read_prompts(file, "--evaluate_prompts") if file else [f"a {{}} {place}" for place in PLACES]
    if subject is None and any("{}" in one for one in prompts):
        what = f"--evaluate_prompts {file} has {{}} for it" if file else "--evaluate_every asks for it in other places"
        raise UserError(
            f"what the subject is called cannot be seen in its prompt {prompt!r}, but {what}: give --evaluate_prompts FILE with its "
            "name in each line"
        )
    return tuple(dict.fromkeys(one.replace("{}", subject or "") for one in prompts))
