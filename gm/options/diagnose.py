"""The command line of tools/diagnose.py. No MindSpore import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from gm.options.parser import REQUIRED, option, parse


@dataclass(frozen=True)
class DiagnoseOptions:
    """What was asked of tools/diagnose.py."""

    run: Path = option(
        REQUIRED, "the folder of a run, its --save_path", positional=True, metavar="FOLDER", group="what is read"
    )
    evaluation: Optional[Path] = option(
        None,
        "the folder with checkpoints.json, which tools/evaluate.py --checkpoints wrote",
        metavar="FOLDER",
        shown="FOLDER/evaluation",
        group="what is read",
    )
    device_memory_gb: Optional[float] = option(
        None,
        "what the device has, to tell whether more samples fit; needs a timings.json with the memory that was used",
        above=0,
        most=10_000,
        shown="not asked",
        group="what is read",
    )


def parse_diagnose(argv: Optional[Sequence[str]]) -> DiagnoseOptions:
    """The options. Raises UserError for anything that cannot be right by itself."""
    return parse(DiagnoseOptions, argv, "diagnose.py", "Tell what went wrong in a run, and which option to change.")
