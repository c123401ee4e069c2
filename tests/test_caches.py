"""What is wrong with a cache folder or an entry of it never ends a run; and what is written is whole, or what was there stays."""

import errno
import os
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from damaged import pipe
from gm.checkpoint import cache_folder, io
from gm.checkpoint.finite import count_not_finite
from gm.checkpoint.io import NotFiniteTensor, convert, open_tensors, write_tensors
from gm.data.disk_cache import DiskCache, _checksum, _text
from gm.errors import UserError
from gm.graph_cache import GraphCache
from gm.models.sdxl import set_values

KEY = {"what": "row", "n": 1}
ROW = np.arange(6, dtype=np.float32).reshape(2, 3)


def stored(path: Path, array, key=KEY) -> None:
    """An entry with the right checksum of what need not be right."""
    write_tensors(path, [("array", array)], {"key": _text(key), "checksum": _checksum(array)})


def linked(path: Path) -> None:
    stored(path.with_name("elsewhere.safetensors"), ROW)
    path.symlink_to(path.with_name("elsewhere.safetensors"))


ENTRIES = {
    "another shape": lambda path: stored(path, ROW.T.copy()),
    "more": lambda path: stored(path, np.zeros((2, 300_000), np.float32)),
    "another type": lambda path: stored(path, ROW.astype(np.float16)),
    "another key": lambda path: stored(path, ROW, KEY | {"n": 2}),
    "NaN": lambda path: stored(path, ROW * np.nan),
    "no checksum": lambda path: write_tensors(path, [("array", ROW)], {"key": _text(KEY)}),
    "two arrays": lambda path: write_tensors(path, [("array", ROW), ("b", ROW)], {"key": _text(KEY)}),
    "half": lambda path: path.write_bytes(b"\x90\1\0\0\0\0\0\0{"),
    "link": linked,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "pipe": pipe,
}


@pytest.mark.parametrize("how", ENTRIES)
def test_an_entry_that_is_not_what_was_kept(tmp_path, project_log, how):
    cache = DiskCache(tmp_path)
    ENTRIES[how](cache._path(KEY))
    assert cache.get(KEY, ROW.shape) is None and "is damaged: it is not used" in project_log.text
    cache.put(KEY, ROW)
    assert np.array_equal(cache.get(KEY, ROW.shape), ROW) and not cache._path(KEY).is_symlink()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_folder_that_cannot_be_used_is_said_once(tmp_path, project_log, monkeypatch):
    in_the_way = DiskCache(tmp_path / "a")
    in_the_way._path(KEY).mkdir(parents=True)
    vanished, below_a_file, too_full = (DiskCache(tmp_path / name) for name in ("none", "file/x", "full"))
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    monkeypatch.setattr(io.os, "fsync", full)
    for cache in (in_the_way, vanished, below_a_file, too_full):
        project_log.clear()
        for number in range(3):
            cache.put(KEY | {"n": number}, ROW)
            assert cache.get(KEY | {"n": number}, ROW.shape) is None
        assert project_log.text.count(f"the run goes on without the cache folder {cache.folder}") == 1
    assert not list((tmp_path / "full").iterdir())


def test_a_folder_that_everybody_can_write_to_is_said_once(tmp_path, project_log, monkeypatch):
    monkeypatch.setattr(cache_folder, "_told", set())
    DiskCache(tmp_path), DiskCache(tmp_path / "none"), DiskCache(None)
    assert not project_log.text
    tmp_path.chmod(0o777)
    DiskCache(tmp_path), DiskCache(tmp_path)
    assert project_log.text.count("can be written to by everybody") == 1


# -- compiled graphs -------------------------------------------------------------------------------------------------


class Graphs:
    """A folder of compiled graphs, as MindSpore writes them."""

    def __init__(self, folder: Path):
        self.folder = folder / "graphs"

    def path(self, rank: int = 0, name: str = "compile_cache_0.mindir") -> Path:
        return self.folder / "1a2b" / f"rank_{rank}" / "graph_cache" / name

    def run(self, rank: int = 0, fails: bool = False) -> bool:
        """Whether a run took the graph from the folder; else it compiles it."""
        with GraphCache(self.folder, rank)():
            path = self.path(rank)
            taken = os.path.lexists(path)
            if not taken:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"graph")
            if fails:
                raise KeyboardInterrupt
        return taken


@pytest.fixture
def graphs(tmp_path, monkeypatch):
    monkeypatch.setattr(ms, "set_context", lambda **_: None)
    return Graphs(tmp_path)


def replaced(path: Path, make) -> None:
    path.unlink()
    make(path)


CHANGED = {
    "other bytes": lambda g: g.path().write_bytes(b"other"),
    "half": lambda g: g.path().write_bytes(b"gra"),
    "one more": lambda g: g.path(name="compile_cache_1.mindir").write_bytes(b"graph"),
    "in no rank": lambda g: (g.folder / "1a2b" / "more.mindir").write_bytes(b"graph"),
    "link": lambda g: replaced(g.path(), lambda path: path.symlink_to("/etc/passwd")),
    "pipe": lambda g: replaced(g.path(), pipe),
    "no checksums": lambda g: (g.folder / "checksums_0.json").unlink(),
    "broken checksums": lambda g: (g.folder / "checksums_0.json").write_text("[" * 5000),
}


@pytest.mark.parametrize("how", CHANGED)
def test_graphs_that_are_not_what_was_kept_are_compiled_anew(graphs, project_log, how):
    assert [graphs.run() for _ in range(3)] == [False, True, True] and not graphs.run(rank=1)
    CHANGED[how](graphs)
    assert not graphs.run() and "are compiled anew" in project_log.text
    assert graphs.run() and graphs.run(rank=1)


def test_graphs_of_a_run_that_ended_while_compiling_are_not_taken(graphs):
    with pytest.raises(KeyboardInterrupt):
        graphs.run(fails=True)
    assert not graphs.run() and graphs.run()


def test_a_folder_of_graphs_that_cannot_be_written_to_is_left(graphs, project_log):
    graphs.run()
    (graphs.folder / "checksums_0.json").unlink()
    (graphs.folder / "checksums_0.json").mkdir()
    assert not graphs.run() and "the run goes on without them" in project_log.text


# -- writing ---------------------------------------------------------------------------------------------------------

PLACES = {
    "read-only": (lambda p: Path("/proc/self/a.ckpt"), "could not be written"),
    "vanished": (lambda p: p / "gone" / "a.ckpt", "could not be written (No such file or directory)"),
    "below a file": (lambda p: p / "file" / "a.ckpt", "could not be written (Not a directory)"),
    "long name": (lambda p: p / ("n" * 250 + ".ckpt"), "could not be written (File name too long)"),
    "folder": (lambda p: p / "folder.ckpt", "could not be written (Is a directory)"),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_written_is_one_sentence(tmp_path, place):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.ckpt").mkdir()
    make, words = PLACES[place]
    with pytest.raises(UserError) as error:
        write_tensors(make(tmp_path), [("w", ROW)])
    assert words in str(error.value) and sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder.ckpt"]


def test_no_quota_and_no_folder_any_more_is_one_sentence(tmp_path, monkeypatch):
    def gone(_):
        (tmp_path / "a").rename(tmp_path / "b")
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    (tmp_path / "a").mkdir()
    monkeypatch.setattr(io.os, "fsync", gone)
    with pytest.raises(UserError, match="no space left for .* none are free"):
        write_tensors(tmp_path / "a" / "w.ckpt", [("w", ROW)])


def test_an_unfinished_file_of_another_leads_nowhere(tmp_path):
    unfinished = tmp_path / f".a.ckpt.{os.uname().nodename}.{os.getpid()}.tmp"
    (tmp_path / "precious").write_text("precious")
    unfinished.symlink_to(tmp_path / "precious")
    write_tensors(tmp_path / "a.ckpt", [("w", ROW)])
    assert (tmp_path / "precious").read_text() == "precious" and not (tmp_path / "a.ckpt").is_symlink()


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_numbers_that_are_not_finite_are_counted(dtype):
    kind = "float32" if dtype == "bfloat16" else dtype
    largest = {"bfloat16": 3.3e38}.get(dtype, np.finfo(kind).max)
    array = np.full(200_001, largest, kind)
    array[::2] = -largest
    array[7] = np.finfo(kind).tiny

    def count() -> int:
        content = io.to_bfloat16(array).content if dtype == "bfloat16" else array.tobytes()
        return count_not_finite(content, dtype)

    assert count() == 0
    array[[0, 65_535, 65_536, 200_000]] = np.nan, np.inf, -np.inf, -np.nan
    assert count() == 4
    assert count_not_finite(b"", dtype) == 0 and count_not_finite(b"\xff" * 16, "int64") == 0


def test_networks_get_no_number_that_is_not_finite(tmp_path):
    """Not from a file, not from a LoRA that overflows, and not by rounding."""
    parameters = [
        ms.Parameter(ms.Tensor(np.zeros(3), kind), name=name) for name, kind in (("a", ms.float32), ("b", ms.float16))
    ]
    set_values(parameters, lambda name: np.full(3, 65504.0))
    assert parameters[1].asnumpy()[0] == 65504
    with pytest.raises(UserError, match="^b has 3 numbers that are not finite in float16"):
        set_values(parameters, lambda name: np.full(3, 65600.0, np.float32))
    with pytest.raises(UserError, match="^a has 1 numbers"):
        set_values(parameters, lambda name: np.array([0, np.nan, 0], np.float32))
    write_tensors(tmp_path / "a.ckpt", [("a", np.full(3, np.inf, np.float32)), ("b", ROW)])
    with open_tensors(tmp_path / "a.ckpt") as file:
        with pytest.raises(NotFiniteTensor, match="a.ckpt holds 3 numbers that are NaN or infinite among the 3 of a"):
            file.read("a")
        assert np.array_equal(file.read("b"), ROW)


def test_a_conversion_names_what_does_not_fit():
    with pytest.raises(UserError, match="^w of size 1e[+]39 does not fit into float32"):
        convert(np.array([1e39]), "float32", "w")
    with pytest.raises(UserError, match="^w of size 3.4e[+]38 does not fit into bfloat16"):
        convert(np.array([3.4e38], np.float32), "bfloat16", "w")
    with pytest.raises(NotFiniteTensor, match="^w has 2 numbers"):
        convert(np.array([1e39, np.nan]), "float32", "w")


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_a_checksum_notices_any_change(tmp_path, suffix):
    path, texts = tmp_path / f"a{suffix}", {"step": "3", "empty": ""}
    write_tensors(path, [("a", ROW), ("b", ROW + 1)], texts)
    with open_tensors(path) as file:
        file.verify_checksum()  # there is none
    write_tensors(path, [("a", ROW), ("b", ROW + 1)], texts, checksum=True)
    whole = path.read_bytes()
    with open_tensors(path) as file:
        file.verify_checksum()
        assert file.metadata["step"] == "3"
    for old, new in ((ROW.tobytes(), ROW[::-1].tobytes()), (b"3", b"4"), (b"step", b"stop")):
        old, new = (text.decode().encode("utf-32-le") if suffix == ".ckpt" and text == b"3" else text for text in (old, new))
        new = new.decode().encode("utf-32-le") if suffix == ".ckpt" and new == b"4" else new
        at = whole.rindex(old) if old == ROW.tobytes() else whole.index(b"step") + whole[whole.index(b"step") :].index(old)
        path.write_bytes(whole[:at] + new + whole[at + len(old) :])
        with pytest.raises(UserError, match="its checksum differs"), open_tensors(path) as file:
            file.verify_checksum()
