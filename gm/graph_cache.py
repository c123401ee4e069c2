"""Compiled graphs kept on disk from run to run: MindSpore's compile cache, with a key that it lacks.

MindSpore finds a graph by its place in the order of compilation alone, takes it whatever the network is now, and keeps to the
folder that a process has named first. So every folder here serves one network, made by one version of this code and of
MindSpore, and one sequence of graphs.
"""

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping, Optional


def graph_folder(root: Path, decides: Mapping[str, object]) -> Path:
    """The folder in `root` for the graphs that follow from `decides` (what JSON can hold), this code and this MindSpore."""
    import mindspore as ms

    digest = hashlib.blake2b(json.dumps([ms.__version__, decides], sort_keys=True).encode(), digest_size=12)
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return root / digest.hexdigest()


class GraphCache:
    """`with cache():` around every compilation of one sequence, the same in every run with this folder. The graphs compiled in
    the body are taken from the folder, and kept there when they are not yet."""

    def __init__(self, folder: Optional[Path]):
        """`folder`: of `graph_folder`; None: no cache."""
        self._folder = folder

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._folder is None:
            yield
            return
        import mindspore as ms

        ms.set_context(enable_compile_cache=True, compile_cache_path=str(self._folder))
        try:
            yield
        finally:
            ms.set_context(enable_compile_cache=False)
