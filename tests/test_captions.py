"""What is said about a photo, and how it varies: the order and the meaning of sd-scripts' `process_caption`."""

import random
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from gm.config.types import CaptionConfig, ConceptConfig
from gm.data.captions import Caption, CaptionChooser, caption_file, read_caption
from gm.data.concepts import caption_of, find_classes, find_subjects
from gm.data.images import count_images
from gm.errors import UserError


def choose(text: str, draws: int = 1, endless: bool = True, **config) -> list[str]:
    chooser = CaptionChooser([Caption(text, CaptionConfig(**config))], 0, 42, endless)
    return [chooser(0, position) for position in range(draws)]


@pytest.mark.parametrize(
    "text, config, expected",
    [
        ("a dog", {}, "a dog"),
        ("a  dog,  red ", {}, "a  dog,  red "),
        ("a dog", {"prefix": "photo of", "suffix": "in colour"}, "photo of a dog in colour"),
        ("a [trigger] dog", {"trigger": "sks"}, "a sks dog"),
        ("a dog", {"trigger": "sks"}, "sks, a dog"),
        ("a sks dog", {"trigger": "sks", "prefix": "photo of"}, "photo of a sks dog"),
        ("a, b|||c, d|||e", {"keep_tokens_separator": "|||"}, "a, b, c, d, e"),
    ],
)
def test_captions_that_do_not_vary(text, config, expected):
    assert set(choose(text, 5, **config)) == {expected}


def reference(text: str, rate: float, keep: int, tag_rate: float) -> str:
    """sd-scripts' steps once more, with Python's random numbers."""
    if random.random() < rate:
        return ""
    tags = [tag.strip() for tag in text.split(",")]
    front, free = tags[:keep], tags[keep:]
    random.shuffle(free)
    return ", ".join(front + [tag for tag in free if random.random() >= tag_rate])


def test_shuffle_and_dropouts_have_sd_scripts_distribution():
    random.seed(1)
    draws = 20000
    mine = Counter(choose("pre a, b,c", draws, dropout=0.1, tag_dropout=0.3, shuffle=True, keep_tokens=1))
    theirs = Counter(reference("pre a, b,c", 0.1, 1, 0.3) for _ in range(draws))
    assert set(mine) == set(theirs) and len(mine) == 6
    for text, count in theirs.items():
        assert abs(mine[text] - count) / draws < 0.015, text


def test_tags_in_front_and_behind_stay():
    for text in choose("sks dog|||a, b, c, d|||end", 50, keep_tokens_separator="|||", shuffle=True, tag_dropout=0.5):
        tags = text.split(", ")
        assert tags[0] == "sks dog" and tags[-1] == "end" and set(tags[1:-1]) <= set("abcd")


def test_kept_variants_are_all_known_and_endless_ones_are_not_bounded():
    config = CaptionConfig(shuffle=True, dropout=0.2, variants=4)
    chooser = CaptionChooser([Caption("a, b, c, d, e, f", config), Caption("g", config)], 0, 42, False)
    drawn = {chooser(image, position) for image in (0, 1) for position in range(400)}
    assert drawn == set(chooser.all()) and len(drawn) == 4 + 1 + 1
    assert len(set(choose("a, b, c, d, e, f", 400, shuffle=True))) > 100


def test_a_draw_says_the_same_every_time_and_kinds_differ():
    given = dict(shuffle=True, tag_dropout=0.2)
    assert choose("a, b, c, d, e", 30, **given) == choose("a, b, c, d, e", 30, **given)
    caption = Caption("a, b, c, d, e", CaptionConfig(shuffle=True))
    first, second = (CaptionChooser([caption], kind, 42, True) for kind in (0, 1))
    assert [first(0, n) for n in range(20)] != [second(0, n) for n in range(20)]


# -- files and folders ------------------------------------------------------------------------------------------------


def photos(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (16, 16), "red").save(folder / name)
    return folder


def concept(folder: Path, prompt=None, classes=None, class_prompt=None, **more) -> ConceptConfig:
    return ConceptConfig(
        str(folder), prompt, str(classes) if classes else None, class_prompt, more.pop("repeats", None), **more
    )


def test_a_caption_file_comes_before_the_prompt(tmp_path, project_log):
    photos(tmp_path, "a.png", "b.png")
    (tmp_path / "a.txt").write_text("\ufeffa red square\nsecond line\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("of no photo")
    said = [caption_of(path, "a thing", CaptionConfig()).text for path in count_images(tmp_path)]
    assert said == ["a red square", "a thing"]
    assert "notes.txt" in project_log.text and "a.txt" not in project_log.text
    assert caption_of(tmp_path / "a.png", "a thing", CaptionConfig(extensions=())).text == "a thing"
    (tmp_path / "a.caption").write_text("another")
    assert caption_file(tmp_path / "a.png", (".caption", ".txt")).name == "a.caption"


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        (b" \n \n", "is empty"),
        ("ein H\xfcndchen".encode("latin-1"), "is not UTF-8"),
        (b"x" * 9000, "9000 characters"),
    ],
)
def test_bad_caption_files(tmp_path, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_caption(tmp_path / "a.txt")


def test_several_subjects(tmp_path):
    first, second = photos(tmp_path / "dog", "a.png"), photos(tmp_path / "cat", "b.png", "c.png")
    given = [concept(first, "a sks dog", repeats=3), concept(second, "a zwx cat", weight=0.5)]
    found = find_subjects(given, 10, "--instance_data_path")
    assert [(len(s.photos), s.prompt, s.repeats, s.weight) for s in found] == [
        (1, "a sks dog", 3, 1.0),
        (2, "a zwx cat", 10, 0.5),
    ]


def test_folder_names_of_sd_scripts(tmp_path):
    photos(tmp_path / "img" / "10_sks dog", "a.png")
    photos(tmp_path / "img" / "4_zwx cat", "b.png")
    photos(tmp_path / "img" / "log", "c.png")
    photos(tmp_path / "reg" / "1_dog", "d.png")
    found = find_subjects([concept(tmp_path / "img")], 99, "--instance_data_path")
    assert [(s.folder.name, s.prompt, s.repeats) for s in found] == [
        ("10_sks dog", "sks dog", 10),
        ("4_zwx cat", "zwx cat", 4),
    ]
    (of_class,) = find_classes([concept(tmp_path / "img", classes=tmp_path / "reg")], "--class_data_path")
    assert (of_class.folder, of_class.prompt) == (tmp_path / "reg" / "1_dog", "dog")
    with pytest.raises(UserError, match="whose names say the prompt"):
        find_subjects([concept(tmp_path / "img", "a dog")], 1, "--instance_data_path")


def test_class_folders_are_taken_once(tmp_path):
    folder = photos(tmp_path / "class", "a.png")
    given = [concept(tmp_path / n, n, folder, "a dog") for n in ("one", "two")]
    assert len(find_classes(given, "class_data_path")) == 1
    with pytest.raises(UserError, match="has two prompts"):
        find_classes([*given, concept(tmp_path / "three", "x", folder, "a cat")], "class_data_path")
    with pytest.raises(UserError, match="without a class prompt"):
        find_classes([concept(tmp_path / "one", "x", folder)], "class_data_path")


def test_a_photo_of_which_nothing_is_said_is_named(tmp_path):
    photos(tmp_path, "a.png")
    with pytest.raises(UserError, match="a.png has no caption file"):
        caption_of(tmp_path / "a.png", None, CaptionConfig())
