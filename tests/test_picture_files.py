"""Pictures as files: names that nobody else has, folders that cannot be written to, and any text in a PNG."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gm import pictures
from gm.errors import UserError
from gm.pictures import (
    contact_sheet,
    fitted,
    font_for,
    grid_sheet,
    next_number,
    numbered,
    save_new_png,
    save_png,
    sheets,
    text_of,
)

NOISE = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_many_at_once_get_names_of_their_own(tmp_path):
    """As threads of a page, that all see the same first number."""
    ready, found = threading.Barrier(8), []

    def save(number: int) -> None:
        candidates = list(tmp_path / f"{place:05d}.png" for place in range(40))
        ready.wait()
        for _ in range(5):
            found.append((save_new_png(candidates, NOISE, {"seed": number}), number))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == [f"{number:05d}.png" for number in range(40)]
    assert len({path for path, _ in found}) == 40
    assert all(text_of(path) == {"seed": str(number)} for path, number in found)


@pytest.mark.parametrize("linked", [True, False])
def test_what_is_there_stays(tmp_path, monkeypatch, linked):
    """A file, a link that leads nowhere, and a folder keep their names, also where a file system has no links."""

    def refuse(*_):
        raise OSError(errno.EPERM, "not permitted")

    if not linked:
        monkeypatch.setattr(pictures.os, "link", refuse)
    (tmp_path / "00000.png").write_bytes(b"mine")
    (tmp_path / "00001.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "00002.png").mkdir()
    assert next_number(tmp_path) == 3
    path = save_new_png((tmp_path / f"{number:05d}.png" for number in range(9)), NOISE, {})
    assert path.name == "00003.png" and np.array_equal(np.asarray(Image.open(path)), NOISE)
    assert (tmp_path / "00000.png").read_bytes() == b"mine" and not (tmp_path / "nowhere").exists()
    with pytest.raises(UserError, match="00003.png is there already"):
        save_new_png([path], NOISE, {})
    assert names(tmp_path) == [f"{number:05d}.png" for number in range(4)]


def test_numbers_and_sheets(tmp_path):
    for name in ("7.png", "²³.png", "٣.png", "9" * 200 + ".png", "sheet_00009.png", "00012.jpg", "x.png"):
        (tmp_path / name).write_bytes(b"")
    assert next(numbered(tmp_path)) == tmp_path / "00008.png" and next_number(tmp_path / "none") == 0
    first = tmp_path / "00009.png"
    assert save_new_png(sheets(tmp_path, first), NOISE, {}).name == "sheet_00009_2.png"
    assert save_new_png(sheets(tmp_path, first), NOISE, {}).name == "sheet_00009_3.png"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("save", [save_png, lambda path, *more: save_new_png([path], *more)])
def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch, number, save):
    """The picture is named with its seed, those before it stay, nothing unfinished is left."""
    save(tmp_path / "a.png", NOISE, {"seed": 1})

    def full(self, *_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError, match=r"b.png \(seed 2\) could not be written \(.*make this again"):
        save(tmp_path / "b.png", NOISE, {"seed": 2})
    assert names(tmp_path) == ["a.png"]


def test_a_folder_that_has_gone_is_made_again(tmp_path):
    assert save_new_png(numbered(tmp_path / "gone"), NOISE, {}).exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="could not be written"):
        save_new_png([tmp_path / "file" / "a.png"], NOISE, {})


@pytest.mark.parametrize(
    "picture, words",
    [
        (np.zeros((4, 4, 3), np.uint8), "a.png is black everywhere"),
        (np.full((4, 4, 3), 17, np.uint8), "of the one colour #111111"),
    ],
)
def test_a_picture_of_one_colour_is_named(tmp_path, project_log, picture, words):
    save_new_png([tmp_path / "a.png"], picture, {})
    assert words in project_log.text
    save_new_png([tmp_path / "b.png"], NOISE, {})
    assert len(project_log.records) == 1


TEXTS = ("a dog", "日本 😀", "\udcff\ud800", "a\0b\x01", "‮right to left", "x" * 1_500_000, "", "line\nline", "a\x85b")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_any_text_can_stand_in_a_picture_and_on_a_sheet(tmp_path, text):
    """What can be said in UTF-8 comes back as it was."""
    path = save_new_png([tmp_path / "a.png"], NOISE, {"prompt": text, "seed": 1})
    found = text_of(path)
    assert found["seed"] == "1" and found.keys() == {"prompt", "seed"}
    if len(text) < 1000 and not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert found["prompt"] == text
    sheet = contact_sheet([[NOISE], [NOISE, NOISE]], [text, text], 16)
    assert sheet.shape == (2 * 40 + 4, 2 * 20 + 4, 3)


def test_sheets_have_a_largest_size(monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST_SHEET", 20_000)
    large = contact_sheet([[NOISE] * 10] * 10, ["a"] * 10, 256)
    assert large.shape[0] * large.shape[1] <= 20_000
    twice = fitted(fitted(np.zeros((37, 91, 3), np.uint8), 16), 16)  # fitting twice changes nothing
    assert np.array_equal(twice, fitted(np.zeros((37, 91, 3), np.uint8), 16))


def test_labels_have_no_boxes():
    """Letters that Pillow's own font lacks come from another, or the label says where they stand; never as boxes."""
    assert font_for("A photo of a café").getname()[0] == "Aileron" and font_for("Щенок").getname() == ("DejaVu Sans", "Book")
    nowhere = "\U000f0000"  # for private use
    assert font_for(nowhere) is None
    hint = np.asarray(contact_sheet([[NOISE]], ["see the picture's text"], 160))
    assert np.array_equal(contact_sheet([[NOISE]], [f"狗 {nowhere}"], 160), hint)


def test_grid_sheet():
    sheet = grid_sheet([[NOISE, None], [NOISE, NOISE]], ["Seed 1", "Seed 2"], ["", ""])
    assert sheet.shape == (20 + 4 + 2 * 260, 2 * 260 + 4, 3)
    assert (sheet[24:280, 264:520] == 255).all() and not (sheet[24:280, 4:260] == 255).all()
    beside = grid_sheet([[NOISE]], ["Seed 1"], ["Strength 0.5"])
    assert beside.shape[1] > 260 + 4 and (beside[100:180, :90] < 128).any()
