"""The flags that say how many pictures are made, how, and where they go. No MindSpore import."""

from dataclasses import dataclass
from typing import Optional

from gm.config.bounds import MOST_AT_ONCE, MOST_COLUMNS
from gm.options.parser import option


@dataclass(frozen=True)
class OutputOptions:
    """Part of SampleOptions."""

    num_cols: int = option(
        1, "pictures per prompt, with the seeds seed, seed + 1, ...", least=1, most=MOST_COLUMNS, group="pictures"
    )
    save_path: str = option("outputs/demo/", "where the PNGs go", metavar="FOLDER", group="pictures")
    like: Optional[str] = option(
        None,
        "repeat this picture, of this suite or of A1111: what it was made with, unless another flag says otherwise",
        metavar="PNG",
        group="pictures",
    )
    batch_size: Optional[int] = option(
        None,
        "pictures that are made at once, whatever their prompts and seeds; one alone differs by rounding, seldom and by 1 of 255",
        least=1,
        most=MOST_AT_ONCE,
        shown="as many as fit into the memory, on the CPU 1",
        group="pictures",
    )
    compile_cache_dir: Optional[str] = option(
        None, "keep compiled graphs here for later commands", metavar="FOLDER", group="pictures"
    )
