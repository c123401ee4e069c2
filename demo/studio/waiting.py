"""What the model says it is doing, and for how long yet, in the visitor's language."""

import re
from typing import Optional

from studio.words import is_chinese, later, say

WAITING = {  # what the model says it is doing, before a comma
    "starting": later("starting"),
    "starting MindSpore": later("starting MindSpore"),
    "checking the weights": later("checking the weights"),
    "loading text encoders": later("loading the text encoders"),
    "loading UNet": later("loading the UNet"),
    "loading VAE": later("loading the VAE"),
    "encoding prompts": later("encoding prompts"),
    "compiling the text encoders": later("compiling the text encoders"),
    "compiling the sampling graph": later("compiling the sampling graph"),
    "compiling the decoder": later("compiling the decoder"),
    "compiling the image encoder": later("compiling the image encoder"),
    "other pictures are being made first": later("other pictures are being made first"),
}
STEP = re.compile(r"picture (\d+) of (\d+)(, enlarged)?, step (\d+) of (\d+)")


def progress_words(words: str, seconds_left: Optional[float] = None) -> str:
    """What is being done, in the visitor's language, and for how long yet."""
    step = STEP.match(words)
    if step:
        text = say("picture {n} of {count}, step {step} of {steps}", n=step[1], count=step[2], step=step[4], steps=step[5])
        text += say(" of the larger picture") if step[3] else ""
    else:
        name, _, rest = words.partition(", ")
        numbers = "/".join(re.findall(r"\d+", rest))
        text = (
            say(WAITING[name]) + (f", {numbers}" if numbers and is_chinese() else f", {rest}" if rest else "")
            if name in WAITING
            else words
        )
    if seconds_left is None:
        return text
    return text + " · " + say("about {time} left", time=duration(seconds_left))


def duration(seconds: float) -> str:
    """5 s, 3 min, 1 h 20 min"""
    minutes = round(seconds / 60)
    if seconds < 100:
        return say("{n} s", n=max(1, round(seconds)))
    return say("{n} min", n=minutes) if minutes < 100 else say("{h} h {n} min", h=minutes // 60, n=minutes % 60)
