"""The part "photos" of the page: what comes into a draft and what is refused, what is said of photos, and the page itself."""

import io
import os
import sys
from types import SimpleNamespace

import mindspore  # noqa: F401  brings its own protobuf code, which has to come before Streamlit's
import numpy as np
import pytest
from PIL import Image

import tiny
from gm.config.types import BucketConfig, DataConfig
from gm.errors import UserError

DEMO = tiny.ROOT / "demo"
VISIT = "0123456789ab"
SCRIPT = """
from pathlib import Path
import studio.photos
from studio.access import PageOptions
from studio.visit import Studio
studio.photos.render(Studio(PageOptions(runs=Path({runs!r}), folders=(Path({given!r}),)), {{}}, [], {visit!r}))
"""


@pytest.fixture
def part(tmp_path, monkeypatch):
    """The modules of the part, a visitor's draft, and a recipe that trains squares of 64 pixels."""
    monkeypatch.syspath_prepend(DEMO)
    monkeypatch.chdir(tmp_path)
    from studio.access import PageOptions
    from studio.draft import Draft
    from studio.photos import intake, measures, overview, plan, thumbnails
    from studio.visit import Studio

    given, runs = tmp_path / "given", tmp_path / "runs"
    given.mkdir()
    studio = Studio(PageOptions(runs=runs, folders=(given,)), {}, [], VISIT)
    recipe = SimpleNamespace(data=DataConfig(target_size=64))
    monkeypatch.setattr(plan.command, "config_of", lambda *_: recipe)
    modules = {"intake": intake, "measures": measures, "overview": overview, "plan": plan, "thumbnails": thumbnails}
    return SimpleNamespace(**modules, studio=studio, draft=Draft(studio.folder / "draft"), given=given, recipe=recipe)


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """Discs on a colour, with some noise: (h, w, 3) uint8."""
    random = np.random.default_rng(seed)
    picture = np.broadcast_to(random.integers(50, 200, 3), (height, width, 3)).copy()
    y, x = np.mgrid[:height, :width]
    for _ in range(12):
        centre, radius = random.integers((height, width)), random.integers(5, max(6, min(height, width) // 3))
        picture[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = random.integers(0, 255, 3)
    return np.clip(picture + random.integers(-8, 8, picture.shape), 0, 255).astype(np.uint8)


def encoded(picture: np.ndarray, kind: str = "PNG", **more) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, kind, **more)
    return content.getvalue()


def upload(name: str, content: bytes, size: int = 0):
    """What Streamlit's uploader gives."""
    return SimpleNamespace(name=name, size=size or len(content), getbuffer=lambda: content)


def taken(part, *uploads):
    return part.intake.take_uploads(part.draft.photos, [upload(*one) for one in uploads])


def there(part) -> list[str]:
    return sorted(path.name for path in part.draft.photos.iterdir())


def plans_of(part, **settings):
    found = part.plan.plans(part.draft, part.draft.change(**settings), part.recipe.data)
    return {plan.path.name: plan for plan in found}


def kinds(plan) -> set[str]:
    return {remark.kind for remark in plan.remarks}


# -- what comes in ----------------------------------------------------------------------------------------------


def test_uploads_become_plain_names_with_the_ending_of_their_content(part):
    photo, other, third = (scene(80, 80, seed) for seed in range(3))
    found = taken(
        part,
        ("../../etc/my <b>*dog*.png", encoded(photo, "JPEG")),
        ("小狗.bmp", encoded(other, "BMP")),
        ("my dog.webp", encoded(third, "WEBP")),
        ("-masklabel.png", encoded(photo[..., 0])),
    )
    assert there(part) == ["my_b_dog.jpg", "my_dog.webp", "小狗.png"]
    assert np.array_equal(np.asarray(Image.open(part.draft.photos / "小狗.png")), other)
    assert found.names == ["my_b_dog.jpg", "小狗.png", "my_dog.webp"] and len(found.refused) == 1
    taken(part, ("my dog.webp", encoded(scene(80, 80, 5), "WEBP")))
    assert "my_dog_2.webp" in there(part)


def test_captions_and_masks_come_with_their_photos(part):
    mask = np.zeros((80, 60), np.uint8)
    mask[20:40] = 255
    files = [
        ("a dog.txt", b"a sks dog\n"),
        ("a dog-masklabel.png", encoded(mask)),
        ("a dog.jpg", encoded(scene(80, 60, 0), "JPEG")),
    ]
    assert taken(part, *files).besides == 2
    assert there(part) == ["a_dog-masklabel.png", "a_dog.jpg", "a_dog.txt"]
    plan = plans_of(part)["a_dog.jpg"]
    assert plan.masked and plan.own_caption and plan.caption == "a sks dog"
    # later, for a photo that is here under its plain name
    assert taken(part, ("a dog.txt", b"another\n")).besides == 1 and plans_of(part)["a_dog.jpg"].caption == "another"
    # not for the photo that had this name before
    refused = taken(part, ("a dog.jpg", b"no photo"), ("a dog.txt", b"of the bad one"))
    assert len(refused.refused) == 2 and plans_of(part)["a_dog.jpg"].caption == "another"


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.jpg", b"hello", "'a.jpg' is not a picture"),
        ("a.jpg", b"", "'a.jpg' is empty"),
        ("a.txt", b"a dog", "'a.txt' belongs to no photo here"),
        ("a.gif", "animated", "animated"),
        ("a.png", "bomb", "too large"),
        ("b.png", "same", "'b.png' is here already"),
    ],
)
def test_what_is_refused_is_named_without_paths(part, name, content, words):
    taken(part, ("first.png", encoded(scene(64, 64, 0))))
    if content == "animated":
        first, second = (Image.fromarray(scene(64, 64, seed)) for seed in range(2))
        made = io.BytesIO()
        first.save(made, "GIF", save_all=True, append_images=[second])
        content = made.getvalue()
    elif content == "bomb":
        made = io.BytesIO()
        Image.new("1", (10001, 10000)).save(made, "PNG")
        content = made.getvalue()
    elif content == "same":
        content = encoded(scene(64, 64, 0))
    found = taken(part, (name, content))
    assert there(part) == ["first.png"] and not found.names
    (sentence,) = found.refused
    assert words in sentence and "/" not in sentence


def test_a_file_of_more_than_the_limit_is_refused_unread(part):
    found = taken(part, ("a.png", b"", part.intake.LARGEST + 1))
    assert "at most 100 MB" in found.refused[0]


def test_there_are_at_most_so_many_photos(part, monkeypatch):
    monkeypatch.setattr(part.intake, "MOST", 2)
    found = taken(part, *((f"{seed}.png", encoded(scene(64, 64, seed))) for seed in range(3)))
    assert len(found.names) == 2 and "there are 2 photos already" in found.refused[0]


def test_a_folder_is_copied_and_stays_as_it_is(part):
    folder = part.given / "set"
    folder.mkdir()
    Image.fromarray(scene(80, 80, 0)).save(folder / "a.png")
    Image.fromarray(scene(80, 80, 1)[..., 0]).save(folder / "a-masklabel.png")
    (folder / "a.caption").write_text("a dog")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert str(folder) in map(str, part.intake.folders_with_photos(part.studio))
    found = part.intake.take_folder(part.studio, part.draft.photos, str(folder))
    assert there(part) == ["a-masklabel.png", "a.png", "a.txt"] and not found.refused
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_no_other_folder_can_be_read(part, tmp_path):
    outside, other = tmp_path / "outside", part.studio.runs / "visits" / "ba9876543210" / "draft" / "photos"
    for folder in (outside, other):
        folder.mkdir(parents=True)
        Image.fromarray(scene(80, 80, 0)).save(folder / "a.png")
    (part.given / "link").symlink_to(outside)
    (part.given / "b.png").symlink_to(outside / "a.png")
    for path in (outside, part.given / ".." / "outside", part.given / "link", "/etc"):
        with pytest.raises(UserError, match="is outside of the folders"):
            part.intake.take_folder(part.studio, part.draft.photos, str(path))
    with pytest.raises(UserError, match="another visitor's"):
        part.intake.take_folder(part.studio, part.draft.photos, str(other))
    found = part.intake.take_folder(part.studio, part.draft.photos, str(part.given))
    assert not found.names and "outside" in found.refused[0]
    listed = part.intake.folders_with_photos(part.studio)
    assert not {outside, other, part.given / "link"} & set(listed)


# -- what is said of photos -------------------------------------------------------------------------------------


def test_remarks(part):
    sharp = Image.fromarray(scene(400, 400, 0))
    files = {
        "sharp.png": sharp,
        "same.png": sharp.resize((360, 360)),
        "other.png": Image.fromarray(scene(400, 400, 1)),
        "blurred.png": sharp.rotate(90).resize((20, 20)).resize((400, 400), Image.Resampling.BICUBIC),
        "flat.png": Image.new("RGB", (400, 400), "gray"),
        "small.png": Image.fromarray(scene(30, 30, 2)),
        "tiny.png": Image.fromarray(scene(3, 3, 3)),
        "wide.png": Image.fromarray(scene(200, 500, 4)),
    }
    part.draft.photos.mkdir(parents=True)
    for name, image in files.items():
        image.save(part.draft.photos / name)
    (part.draft.photos / "broken.jpg").write_bytes(b"nothing")
    found = plans_of(part, instance_prompt="a dog")
    assert {name: kinds(plan) for name, plan in found.items()} == {
        **{"sharp.png": {"equal"}, "same.png": set(), "other.png": set()},  # the second of two, by name
        **{"blurred.png": {"blurred"}, "flat.png": {"flat"}, "small.png": {"small"}, "tiny.png": {"tiny"}},
        **{"wide.png": {"cut"}, "broken.jpg": {"broken"}},
    }
    assert found["sharp.png"].remarks[0].sentence == "It is nearly equal to same.png: one of them is enough"
    assert "60% of it is cut off" in found["wide.png"].remarks[0].sentence
    assert "/" not in found["broken.jpg"].remarks[0].sentence
    assert dict(part.plan.gathered(list(found.values())))["cut"] == ["wide.png"]
    assert not plans_of(part, excluded=("same.png",))["sharp.png"].remarks


def test_captions_that_are_said(part):
    taken(part, ("a.png", encoded(scene(80, 80, 0))), ("b.png", encoded(scene(80, 80, 1))))
    assert [kinds(plan) for plan in plans_of(part).values()] == [{"silent"}, {"silent"}]
    (part.draft.photos / "a.txt").write_text("a sks dog")
    found = plans_of(part, instance_prompt="a dog")
    assert [plan.caption for plan in found.values()] == ["a sks dog", "a dog"]
    assert [kinds(plan) for plan in found.values()] == [set(), {"uncaptioned"}]
    (part.draft.photos / "a.txt").write_bytes(b"\xff")
    assert kinds(plans_of(part)["a.png"]) == {"caption"}


def test_a_mask_whose_subject_is_not_in_the_crop(part):
    part.recipe.data = DataConfig(target_size=64, crop="center")
    mask = np.zeros((100, 300), np.uint8)
    mask[:, :50] = 255
    taken(part, ("a.png", encoded(scene(100, 300, 0))), ("a-masklabel.png", encoded(mask)))
    assert "lost" in kinds(plans_of(part)["a.png"])
    mask[:, :50], mask[:, 120:180] = 0, 255
    taken(part, ("a-masklabel.png", encoded(mask)))
    assert "lost" not in kinds(plans_of(part)["a.png"])
    taken(part, ("a-masklabel.png", encoded(mask[:50])))
    (remark,) = [one for one in plans_of(part)["a.png"].remarks if one.kind == "mask"]
    assert "300 x 50 pixels" in remark.sentence and "/" not in remark.sentence


def test_crops_are_those_of_the_recipe(part):
    taken(part, ("a.png", encoded(scene(100, 200, 0))))
    plan = plans_of(part)["a.png"]
    assert plan.shape == (64, 64) and [crop.top_left for crop in plan.crops] == [(0, 0), (0, 32), (0, 64)] and plan.cut == 0.5
    thumbnail = np.asarray(Image.open(io.BytesIO(part.thumbnails.thumbnail(plan, 256))).convert("RGB")).astype(int)
    reds = (thumbnail[..., 0] > 180) & (thumbnail[..., 1:].max(-1) < 90)
    assert (
        thumbnail.shape == (100, 200, 3)
        and reds[50:, 48:53].any()
        and reds[:, 147:152].any()
        and not reds[20:80, 60:140].mean() > 0.5
    )
    buckets = BucketConfig(max_buckets=2, step=16, smallest=32, largest=128, upscale=True)
    part.recipe.data = DataConfig(target_size=64, buckets=buckets, crop="center")
    plan = plans_of(part)["a.png"]
    assert plan.shape == (32, 96) or plan.shape == (48, 80) and len(plan.crops) == 1


def test_a_changed_photo_is_looked_at_again(part):
    taken(part, ("a.png", encoded(scene(100, 100, 0))))
    path = part.draft.photos / "a.png"
    assert not part.measures.look(path).flat
    Image.new("RGB", (100, 100), "gray").save(path)
    os.utime(path, ns=(1, 1))
    assert part.measures.look(path).flat


# -- the page ---------------------------------------------------------------------------------------------------


@pytest.fixture
def page(part):
    """The part in a page of its own."""
    from streamlit.testing.v1 import AppTest

    words = {"runs": str(part.studio.runs), "given": str(part.given), "visit": VISIT}
    return AppTest.from_string(SCRIPT.format(**words), default_timeout=60)


def sentences(page) -> str:
    assert not page.exception, page.exception
    return " ".join(
        one.value.replace("\\", "") for kind in (page.error, page.warning, page.success, page.info) for one in kind
    )


def button(page, key: str):
    return page.button(key=key).click().run()


def test_from_a_folder_to_captions_on_the_page(part, page):
    for seed in range(2):
        Image.fromarray(scene(100, 100, seed)).save(part.given / f"{seed}.png")
    assert "Add 5 to 20 photos" in sentences(page.run())
    page.selectbox(key="photos_folder").set_value(str(part.given)).run()
    button(page, "photos_copy")
    assert "2 photos, 0 captions" in sentences(page) and "fewer than 3 photos" in sentences(page)
    assert "Nothing says what they show: 0.png, 1.png" in sentences(page)
    button(page, "photos_bulk_all")
    assert "the caption is empty" in sentences(page)
    page.text_input(key="photos_bulk").set_value("a sks dog").run()
    button(page, "photos_bulk_all")
    assert "2 captions written" in sentences(page) and (part.draft.photos / "1.txt").read_text() == "a sks dog\n"

    button(page, "photos_open_0.png")
    assert page.subheader[0].value == "0\\.png (1/2)"
    page.text_area(key="photos_caption_0.png").set_value("a sks dog\non grass").run()
    assert (part.draft.photos / "0.txt").read_text() == "a sks dog on grass\n"
    page.text_area(key="photos_caption_0.png").set_value("\x00").run()
    assert "control characters" in sentences(page) and (part.draft.photos / "0.txt").read_text() == "a sks dog on grass\n"
    page.toggle(key="photos_exclude_0.png").set_value(True).run()
    assert part.draft.settings().excluded == ("0.png",)
    button(page, "photos_after")
    assert page.subheader[0].value == "1\\.png (2/2)"
    button(page, "photos_before")
    assert page.toggle(key="photos_exclude_0.png").value is True
    button(page, "photos_delete_0.png")
    assert there(part) == ["1.png", "1.txt"] and part.draft.settings().excluded == ()
    button(page, "photos_uncaption")
    assert there(part) == ["1.png"]
    button(page, "photos_delete_all")
    assert there(part) == [] and not page.exception


def test_a_path_elsewhere_is_a_sentence(part, page, tmp_path):
    (part.given / "set").mkdir()
    Image.fromarray(scene(80, 80, 0)).save(part.given / "set" / "a.png")
    page.run()
    page.selectbox(key="photos_folder").set_value(str(part.given / "set")).run()
    (part.given / "set").rename(tmp_path / "set")
    (part.given / "set").symlink_to(tmp_path / "set")
    button(page, "photos_copy")
    assert "set' is outside of the folders of this page" in sentences(page) and not part.draft.photos.exists()


def test_a_mask_is_painted_and_removed(part, page, monkeypatch):
    taken(part, ("a.png", encoded(scene(600, 900, 0))))
    from studio.photos import editor

    painted = np.zeros((341, 512), np.uint8)
    painted[100:200, 100:200] = 255
    given, returned = [], [None]
    monkeypatch.setattr(editor, "brush", lambda picture, mask, key, label: given.append((picture.shape, mask)) or returned[0])
    file = part.draft.photos / "a-masklabel.png"
    button(page.run(), "photos_open_a.png")
    assert given[-1] == ((341, 512, 3), None) and not file.exists()
    returned[0] = painted
    page.run()
    mask = np.asarray(Image.open(file))
    assert mask.shape == (600, 900) and set(np.unique(mask)) == {0, 255}
    assert abs(mask.mean() - painted.mean()) < 0.5 and mask[200, 200] == 255
    file.write_bytes(b"")
    page.run()
    assert file.read_bytes() == b""  # the same is not written again
    returned[0] = np.zeros_like(painted)
    page.run()
    assert not file.exists()  # nothing is painted any more
    returned[0] = painted
    page.run()
    returned[0] = None
    button(page, "photos_unmask_a.png")
    assert not file.exists() and there(part) == ["a.png"]


def test_a_recipe_that_does_not_fit_is_said(part, page, monkeypatch):
    taken(part, ("a.png", encoded(scene(100, 100, 0))))

    def bad(*_):
        raise UserError("the recipe has *no* end")

    monkeypatch.setattr(sys.modules["studio.recipe.command"], "config_of", bad)
    assert "The recipe does not fit yet: the recipe has *no* end" in sentences(page.run())
    assert page.button(key="photos_open_a.png")


def test_drawn_photos(part, page):
    page.run()
    button(page, "photos_draw")
    assert "5 photos" in sentences(page) and len(there(part)) == 5
    assert part.draft.settings().instance_prompt == part.intake.DRAWN_PROMPT
    assert not any(plan.remarks for plan in plans_of(part).values())
