"""Compiled graphs kept on disk from run to run: MindSpore's compile cache, with a key that it lacks.

MindSpore finds a graph by its place in the order of compilation alone, and takes it whatever the network is now. So every
folder here serves one network, made by one version of this code and of MindSpore, and one sequence of graphs.
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
    """`with cache("training graph"):` around every compilation of one network, the same in every run.

    The graphs compiled in the body are taken from the folder, and kept there when they are not yet. What was compiled
    before decides the place of a graph, so a run that compiles in another order never gets a wrong one.
    """

    def __init__(self, folder: Optional[Path]):
        """`folder`: of `graph_folder`; None: no cache."""
        self._folder, self._before = folder, ""

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        if self._folder is None:
            yield
            return
        import mindspore as ms

        self._before += what + "\n"
        place = self._folder / hashlib.blake2b(self._before.encode(), digest_size=6).hexdigest()
        ms.set_context(enable_compile_cache=True, compile_cache_path=str(place))
        try:
            yield
        finally:
            ms.set_context(enable_compile_cache=False)
