"""Compiled graphs kept on disk from run to run: MindSpore's compile cache, with a key that it lacks.

MindSpore finds a graph by its place in the order of compilation alone, takes it whatever the network is now, and keeps to the
folder that a process has named first. So every folder here serves one network, made by one version of this code and of
MindSpore, and one sequence of graphs.

MindSpore checks nothing of what it loads. Each rank keeps the checksums of its own graphs beside them; graphs that differ, or have
none because the process that wrote them was killed, are removed and compiled anew. Beside them also stands what each graph was
compiled for, where that is said: a process whose graphs come in another order goes on without the cache.
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

SEQUENCE = "sequence"  # the name beside the checksums


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
        self._known: list[str] = []  # what the graphs in the folder were compiled for, in their order
        self._compiled = 0  # graphs of this process, of those

    @contextmanager
    def __call__(self, graph: Optional[str] = None) -> Iterator[None]:
        """`graph`: what the one graph of the body is compiled for, in words that differ where graphs do; None: the caller knows
        that the order is the same in every run."""
        if self._folder is not None and not self._checked:
            self._check(self._folder, graph is not None)
        if self._folder is not None and graph is not None:
            self._follow(graph)
        if self._folder is None:
            yield
            return
        import mindspore as ms

        ms.set_context(enable_compile_cache=True, compile_cache_path=str(self._folder))
        try:
            yield
            self._keep_checksums(self._folder)  # not after a failure, which may have left half a graph
        except BaseException:
            self._folder = None  # nor can it be known whether MindSpore has counted it
            raise
        finally:
            ms.set_context(enable_compile_cache=False)

    def _follow(self, graph: str) -> None:
        """The next graph of the sequence is this one; no cache from here on where the folder has another in its place."""
        if self._known[self._compiled : self._compiled + 1] not in ([], [graph]):
            log.info("the graphs that follow are compiled: those in %s are others", self._folder)
            self._folder = None
            return
        self._known[self._compiled :] = self._known[self._compiled :] or [graph]
        self._compiled += 1

    def _check(self, folder: Path, is_told: bool) -> None:
        """Remove this rank's graphs unless all of them are what was kept and, if that `is_told`, what they are for is known;
        where that fails there is no cache."""
        self._checked = True
        tell_if_others_write(folder if folder.exists() else folder.parent)
        try:
            files, kept = self._files(folder), _kept(self._checksums(folder))
            if isinstance(kept, dict):
                self._known = _words(kept.pop(SEQUENCE, []))
            if files and (_digests(files) != kept or is_told and not self._known):
                self._known = []
                log.warning("the compiled graphs in %s are not those that were kept: they are compiled anew", folder)
                for path in files.values():
                    path.unlink()
        except OSError as error:
            self._leave(error)

    def _keep_checksums(self, folder: Path) -> None:
        path = self._checksums(folder)
        try:
            digests: dict[str, object] = {**_digests(self._files(folder))}
            if digests and self._known:
                digests[SEQUENCE] = self._known
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


def _words(found: object) -> list[str]:
    return [str(one) for one in found] if isinstance(found, list) else []
