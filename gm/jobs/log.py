"""What a job's command has said, without what its bars have written over. No MindSpore import."""

import os
from pathlib import Path

MOST = 256 * 1024  # bytes that are looked at for the last lines


def last_lines(path: Path, most: int, start: int = 0) -> list[str]:
    """The last lines of the log behind byte `start`; none where there is no log."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = max(start, end - MOST)
            file.seek(begin)
            content = file.read(end - begin)
    except (OSError, ValueError):
        return []
    lines = as_shown(content.decode("utf-8", "replace")).split("\n")
    if begin > start:
        del lines[0]  # cut off
    while lines and not lines[-1].strip():
        lines.pop()
    return lines[-most:]


def as_shown(text: str) -> str:
    """The text as a terminal would show it in the end: of what stands in a line, the last that a bar has drawn."""
    return "\n".join(_last_drawn(line) for line in text.split("\n"))


def _last_drawn(line: str) -> str:
    return next((part for part in reversed(line.split("\r")) if part.strip()), "")


def reason(lines: list[str], begins: str = "error: ") -> str:
    """The last line that begins like this, without the beginning of an error; else the last line with words."""
    found = next((line for line in reversed(lines) if line.startswith(begins)), "")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return (found or last).strip().removeprefix("error: ")
