"""Compiled graphs kept on disk from run to run: MindSpore's compile cache, with a key that it lacks.

MindSpore finds a graph by its place in the order of compilation alone, takes it whatever the network is now, and keeps to the
folder that a process has named first. So every folder here serves one network, made by one version of this code and of
MindSpore, and one sequence of graphs.

MindSpore checks nothing of what it loads. Each rank keeps the checksums of its own graphs beside them; graphs that differ, or have
none because the process that wrote them was killed, are removed and compiled anew.
"""

import hashlib
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping, Optional

from gm.checkpoint.cache_folder import is_plain, tell_if_others_write
from gm.checkpoint.json_text import LARGEST, parse_json
from gm.console import log
from gm.files import replacing


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

    def __init__(self, folder: Optional[Path], rank: int = 0):
        """`folder`: of `graph_folder`; None: no cache. `rank`: of this process, whose graphs are in folders of that name."""
        self._folder, self._rank, self._checked = folder, rank, False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._folder is not None and not self._checked:
            self._check(self._folder)
        if self._folder is None:
            yield
            return
        import mindspore as ms

        ms.set_context(enable_compile_cache=True, compile_cache_path=str(self._folder))
        try:
            yield
            self._keep_checksums(self._folder)  # not after a failure, which may have left half a graph
        finally:
            ms.set_context(enable_compile_cache=False)

    def _check(self, folder: Path) -> None:
        """Remove this rank's graphs unless all of them are what was kept; where that fails there is no cache."""
        self._checked = True
        tell_if_others_write(folder if folder.exists() else folder.parent)
        try:
            files = self._files(folder)
            if files and _digests(files) != _kept(self._checksums(folder)):
                log.warning("the compiled graphs in %s are not those that were kept: they are compiled anew", folder)
                for path in files.values():
                    path.unlink()
        except OSError as error:
            self._leave(error)

    def _keep_checksums(self, folder: Path) -> None:
        path = self._checksums(folder)
        try:
            digests = _digests(self._files(folder))
            if digests and digests != _kept(path):
                with replacing(path) as unfinished:
                    unfinished.write_text(json.dumps(digests))
        except OSError as error:
            self._leave(error)

    def _leave(self, error: OSError) -> None:
        log.warning(
            "the compiled graphs in %s cannot be kept (%s): the run goes on without them", self._folder, error.strerror
        )
        self._folder = None

    def _checksums(self, folder: Path) -> Path:
        return folder / f"checksums_{self._rank}.json"

    def _files(self, folder: Path) -> dict[str, Path]:
        """All that is below the folder, by its name in it, but for what other ranks have there."""
        own, found = f"rank_{self._rank}", {}
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            ranks = [part for part in parts if re.fullmatch(r"rank_\d+", part)]
            if len(parts) > 1 and (not ranks or own in ranks) and (path.is_symlink() or not path.is_dir()):
                found["/".join(parts)] = path
        return found


def _digests(files: Mapping[str, Path]) -> dict[str, str]:
    """The hash of every file; "" for a link, a pipe or a device, which is never opened."""
    return {
        name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() if is_plain(path) else ""
        for name, path in files.items()
    }


def _kept(path: Path) -> Optional[object]:
    """The checksums that were kept; None without any."""
    try:
        return parse_json(path.read_bytes()) if is_plain(path) and path.stat().st_size <= LARGEST else None
    except (OSError, ValueError):
        return None
