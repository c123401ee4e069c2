"""What went wrong in a run, in one paragraph for people: each finding with the run's own figures, the option to change and, where
that can be said, the value to try.

RULES is the table: a rule looks at the facts of a run and returns its sentence, or None. A rule speaks where the figures leave
little doubt, because the losses of single updates differ a hundredfold with the noise level and say little: a good run must hear
nothing (tests/test_diagnosis.py holds every rule against recorded runs). No MindSpore import.
"""

from pathlib import Path
from typing import Callable, Optional, Sequence

import numpy as np

from gm.errors import one_line
from gm.files import replacing
from gm.training.diagnosis.checkpoints import class_drift, hardly_learned, past_the_best, prompt_lost, too_few_updates
from gm.training.diagnosis.facts import Facts, read_facts
from gm.training.diagnosis.spending import memory_unused, seen_often, time_elsewhere, uneven_subjects
from gm.training.diagnosis.updates import (
    change,
    clipped,
    in_warm_up,
    not_finite,
    prodigy_stuck,
    rate_too_high,
    rate_too_low,
    unfinished,
)

FILE = "diagnosis.txt"
RULES: Sequence[Callable[[Facts], Optional[str]]] = (
    unfinished,
    not_finite,
    rate_too_high,
    prodigy_stuck,
    in_warm_up,
    rate_too_low,
    hardly_learned,
    too_few_updates,
    class_drift,
    prompt_lost,
    past_the_best,
    seen_often,
    uneven_subjects,
    clipped,
    time_elsewhere,
    memory_unused,
)


def findings(facts: Facts) -> dict[str, str]:
    """Name of a rule -> its sentence, of those that have one."""
    found = {rule.__name__: rule(facts) for rule in RULES}
    return {name: sentence for name, sentence in found.items() if sentence}


def diagnose(facts: Facts) -> str:
    """The paragraph, one line that every terminal can show."""
    return one_line(_paragraph(facts))


def _paragraph(facts: Facts) -> str:
    of = f" of {facts.total}" if facts.total is not None and facts.total != facts.updates else ""
    start = f"After {facts.updates}{of} updates"
    if facts.damaged:
        start += f" (damaged lines of the records, left out: {facts.damaged})"
    found = list(findings(facts).values())
    if not found:
        return f"{start} all looks well: {_looked_at(facts)}."
    if len(found) == 1:
        return f"{start}: {found[0]}."
    return f"{start} there is this to say: " + " ".join(f"({i}) {words}." for i, words in enumerate(found, 1))


def write_diagnosis(run: Path, device_gb: Optional[float] = None) -> str:
    """The paragraph on the run in this folder, which is written there as well. `device_gb`: memory that the device has. OSError or
    UserError when that cannot be."""
    paragraph = diagnose(read_facts(run, device_gb=device_gb))
    with replacing(run / FILE) as unfinished_file:
        unfinished_file.write_text(paragraph + "\n", encoding="utf-8", errors="backslashreplace")
    return paragraph


def _looked_at(f: Facts) -> str:
    """What there was to look at, with a figure of each."""
    loss, words = change(f.photos), []
    if loss is not None:
        words.append(f"the loss of the photos went from {loss.before:.2g} to {loss.after:.2g}")
    norms, skipped = f.norms[np.isfinite(f.norms)], f.skipped[np.isfinite(f.skipped)]
    if norms.size:
        words.append(f"the norm of the gradient was {float(np.median(norms)):.2g}")
    if skipped.size:
        words.append(f"{skipped[-1]:.0f} updates were skipped" if skipped[-1] else "no update was skipped")
    if f.seconds:
        words.append(f"updates took {f.seconds.get('further steps', 0.0):.0f} of {sum(f.seconds.values()):.0f} seconds")
    if f.come is not None:
        words.append(f"and the subject came {f.come:.0%} of the way from the base model to real pictures")
    elif f.evaluation is None:
        words.append("and its checkpoints have not been evaluated (tools/evaluate.py --checkpoints)")
    return ", ".join(words)
