"""Why the chooser took a checkpoint, in the visitor's language: gm/evaluation/chooser.py says it in English."""

import re

from studio.words import later, say

WHOLE = (
    later("no checkpoint is nearer to the subject than the base model"),
    later("it is the only checkpoint"),
    later("it is the first with half of the subject; more updates may bring more"),
)
CHANGES = {
    "the subject gains": later("the subject gains {by}"),
    "the subject loses": later("the subject loses {by}"),
    "the prompt gains": later("the prompt gains {by}"),
    "the prompt loses": later("the prompt loses {by}"),
    "the class gains": later("the class gains {by}"),
    "the class loses": later("the class loses {by}"),
}
RISES = re.compile(r"the score still rises: ([\d.]+), after ([\d.]+) at (\d+); more updates may bring more")
AFTER = re.compile(r"after (\d+) (.+) \(at (\d+)\)")
CHANGE = re.compile(r"(the \w+ (?:gains|loses)) ([\d.]+)")


def in_words(reason: str) -> str:
    """The reason; one that is not known here as it is."""
    if reason in WHOLE:
        return say(reason)
    rises, after = RISES.fullmatch(reason), AFTER.fullmatch(reason)
    if rises:
        return say(
            "the score still rises: {now}, after {before} at {step}; more updates may bring more",
            now=rises[1],
            before=rises[2],
            step=rises[3],
        )
    changes = CHANGE.findall(after[2]) if after else []
    if not after or not changes or any(what not in CHANGES for what, _ in changes):
        return reason
    said = [say(CHANGES[what], by=by) for what, by in changes]
    return say("after step {step}: {changes} (at {last})", step=after[1], changes=", ".join(said), last=after[3])
