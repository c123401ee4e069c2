"""Damaged pictures, any text in them, and any file as a judge: what reads them succeeds or says one sentence.

FUZZ_SECONDS=60 goes on for so long; without it, a few seconds.
"""

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from gm.checkpoint.io import write_tensors
from gm.data.images import read_image
from gm.errors import UserError
from gm.evaluation.samples import KEY, _is_there
from gm.pictures import contact_sheet, save_new_png, text_of

SECONDS = float(os.environ.get("FUZZ_SECONDS", 5)) / 4  # for each of the tests
FUZZ = settings(
    deadline=None,
    derandomize=False,
    database=None,
    max_examples=max(150, int(400 * SECONDS)) if "FUZZ_SECONDS" in os.environ else 150,  # about as many as there is time for
    suppress_health_check=list(HealthCheck),
)
NOISE = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
CHUNKS = (
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"eXIf",
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"gAMA",
    b"iCCP",
    b"pHYs",
    b"acTL",
    b"fcTL",
    b"IDAT",
    b"IEND",
)


class Clock:
    """Ends a test when its time is up."""

    def __init__(self):
        self.start = time.monotonic()

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.start > SECONDS


@pytest.fixture(scope="module")
def clocks():
    return {}


def over(clocks: dict, name: str) -> bool:
    return clocks.setdefault(name, Clock()).is_over


def chunk(kind: bytes, data: bytes, sound: bool = True) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ (not sound))


def png(chunks: list[tuple[bytes, bytes, bool]], size: tuple[int, int] = (1, 1)) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    tail = chunk(b"IDAT", zlib.compress(b"\0abc")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*one) for one in chunks) + tail


def compressed(text: bytes) -> bytes:
    return b"prompt\0\0" + zlib.compress(text)


def international(text: bytes, flag: int = 0, method: int = 0) -> bytes:
    return KEY.encode() + b"\0" + bytes([flag, method]) + b"en\0\0" + text


DATA = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(lambda data: b"prompt\0" + data),
    st.binary(max_size=40).map(compressed),
    st.builds(international, st.binary(max_size=40), st.integers(0, 255), st.integers(0, 255)),
    st.binary(max_size=40).map(lambda data: international(zlib.compress(data), 1)),
)


def reads_or_refuses(path) -> None:
    """Whatever is read back is text; UserError is the only other end."""
    for read in (text_of, read_image, lambda one: _is_there(one, "key")):
        try:
            found = read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        if isinstance(found, dict):
            assert all(isinstance(word, str) for pair in found.items() for word in pair)


@FUZZ
@example(chunks=[(b"zTXt", compressed(b"a" * 20_000_000), True)], size=(1, 1))
@example(chunks=[(b"iTXt", international(zlib.compress(b"a" * 20_000_000), 1), True)], size=(1, 1))
@example(chunks=[(b"tEXt", b"prompt\0" + b"a" * 2_000_000, True)] * 40, size=(1, 1))
@example(chunks=[(b"zTXt", b"prompt\0\x09nothing", True), (b"zTXt", b"", True), (b"iTXt", b"\0\1", True)], size=(1, 1))
@example(chunks=[(b"iTXt", international(b"\xff\xfe\xed\xa0\x80"), True)], size=(1, 1))
@example(chunks=[(b"eXIf", b"II*\0\xff\xff\xff\xff", True), (b"tRNS", b"", True)], size=(2**31 - 1, 2**31 - 1))
@given(
    chunks=st.lists(st.tuples(st.sampled_from(CHUNKS), DATA, st.booleans()), max_size=4),
    size=st.tuples(*[st.integers(0, 2**31 - 1)] * 2),
)
def test_chunks_read_back(tmp_path_factory, clocks, chunks, size):
    if not over(clocks, "chunks"):
        path = tmp_path_factory.getbasetemp() / "chunks.png"
        path.write_bytes(png(chunks, size))
        reads_or_refuses(path)


@FUZZ
@example(changes=[(8, b"\xff" * 8)], length=None)
@example(changes=[], length=0)
@example(changes=[], length=40)
@given(
    changes=st.lists(st.tuples(st.integers(0, 500), st.binary(min_size=1, max_size=8)), max_size=4),
    length=st.one_of(st.none(), st.integers(0, 500)),
)
def test_damaged_pictures(tmp_path_factory, clocks, changes, length):
    if over(clocks, "damaged"):
        return
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "PNG")
    content = bytearray(file.getvalue())
    for place, data in changes:
        content[place : place + len(data)] = data
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    path.write_bytes(bytes(content[:length]))
    reads_or_refuses(path)


@FUZZ
@example(text="\ud800\udfff\udc80", label="\0\x1b[31m")
@example(text="a" * 1_200_000, label="b" * 1_200_000)
@given(text=st.text(st.characters(), max_size=60), label=st.text(st.characters(), max_size=60))
def test_any_prompt_into_a_picture_and_back(tmp_path_factory, clocks, text, label):
    if over(clocks, "prompts"):
        return
    folder = tmp_path_factory.getbasetemp()
    path = folder / "prompt.png"
    path.unlink(missing_ok=True)
    found = text_of(save_new_png([path], NOISE, {"prompt": text, "seed": 1, KEY: "key"}))
    assert found["seed"] == "1" and _is_there(path, "key")
    if len(text) < 1000 and not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert found["prompt"] == text
    contact_sheet([[NOISE]], [label], 16)


@FUZZ
@example(places="[" * 100_000)
@example(places='["a", 1]')
@given(
    places=st.one_of(
        st.text(max_size=20), st.lists(st.one_of(st.text(max_size=3), st.integers(), st.none()), max_size=4).map(str)
    )
)
def test_any_file_as_a_judge(tmp_path_factory, clocks, places):
    """What its text says is read before any network is built."""
    from gm.checkpoint.io import open_tensors
    from tools.toy.judge import _places

    if over(clocks, "judge"):
        return
    path = tmp_path_factory.getbasetemp() / "judge.safetensors"
    try:
        write_tensors(path, [("a", np.zeros(1, np.float32))], {"places": places})
        with open_tensors(path) as file:
            assert all(isinstance(place, str) for place in _places(file))
    except UserError:
        pass
