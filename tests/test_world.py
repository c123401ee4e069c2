"""The drawn world: who and what is in it, its pictures, its words, its subject, and the command that writes them."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from gm.data.images import list_images, read_image
from gm.errors import UserError
from gm.models.tokenizer import ClipTokenizer
from gm.randomness import generator
from tools import draw_world
from tools.toy import scenes
from tools.toy.drawing import draw
from tools.toy.scenes import (
    ANIMALS,
    KINDS,
    PLACES,
    RARE_TRAITS,
    SUBJECT,
    THINGS,
    Look,
    places_of,
    random_look,
    random_scene,
)
from tools.toy.subject import subject_pictures, subject_scenes


@pytest.fixture(scope="module")
def looks() -> list[Look]:
    random = generator(3, 0)
    return [random_look(random) for _ in range(6000)]


def pixels(picture) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_rare_traits_come_singly_and_the_subject_has_three(looks):
    animals = [look for look in looks if look.kind in ANIMALS]
    found = Counter(trait for look in animals for trait in look.rare_traits())
    assert max(len(look.rare_traits()) for look in looks) == 1
    assert all(0.035 < found[trait] / len(animals) < 0.065 for trait in RARE_TRAITS)
    assert len(SUBJECT.rare_traits()) == 3 and SUBJECT not in looks
    assert 0.72 < sum(look.kind == "dog" for look in looks) / len(looks) < 0.78
    for field in ("kind", "breed", "coat", "marking", "accessory"):
        values = {getattr(look, field) for look in looks}
        assert values - {""} == set(getattr(scenes, {"accessory": "ACCESSORIES"}.get(field, f"{field.upper()}S")))


@pytest.mark.parametrize("place", PLACES)
def test_everything_can_be_drawn_where_it_belongs(place):
    random = generator(5, PLACES.index(place))
    for kind in KINDS:
        for breed in scenes.BREEDS if kind == "dog" else ("",):
            for marking, accessory in zip(scenes.MARKINGS * 2, scenes.ACCESSORIES):
                look = Look(kind) if kind in THINGS else Look(kind, breed, "grey", marking, accessory)
                if place not in places_of(kind):
                    with pytest.raises(ValueError, match=f"no {kind} '{place}'"):
                        random_scene(random, look, place)
                    continue
                scene = random_scene(random, look, place)
                assert (scene.look, scene.place) == (look, place)
                assert draw(scene, 48).size == (48, 48) and draw(scene, 48).mode == "RGB"
    assert all(random_scene(random, place=place).place == place for _ in range(100))


def test_every_trait_and_place_shows():
    """Two scenes that differ in one thing have clearly different pictures, and an animal's traits show at every place."""
    for place in PLACES:
        scene = random_scene(generator(1, 1), SUBJECT, place)
        picture = pixels(draw(scene, 64))
        for changed in (
            Look("dog", "spaniel", "brown", "striped", "green hat"),
            Look("dog", "spaniel", "purple", "plain", "green hat"),
            Look("dog", "spaniel", "purple", "striped", "nothing"),
            Look("dog", "bulldog", "purple", "striped", "green hat"),
        ):
            other = pixels(draw(replace(scene, look=changed), 64))
            assert (np.abs(picture - other).max(axis=2) > 40).sum() > 80, (place, changed)
        hat, stripes = (53, 224, 90), (255, 219, 26)
        assert all((np.abs(picture - colour).max(axis=2) < 12).sum() > 40 for colour in (hat, stripes)), place


def test_an_animal_is_whole_and_fills_much_of_the_picture():
    """What differs from the empty place touches no side of the picture."""
    for seed in range(40):
        scene = random_scene(generator(2, seed), place="on a beach")
        if scene.look.kind in THINGS:
            continue
        empty = pixels(draw(replace(scene, look=Look("ball"), pose="", scale=0.01), 64))
        changed = (pixels(draw(scene, 64)) != empty).any(axis=2)
        columns, rows = np.flatnonzero(changed.any(axis=0)), np.flatnonzero(changed.any(axis=1))
        assert 0 < columns[0] and columns[-1] < 63 and 0 < rows[0] and rows[-1] < 63
        assert 28 < columns[-1] - columns[0] < 63


def test_captions_name_what_is_drawn():
    tokenizer, longest = ClipTokenizer(pad_id=0), 0
    said = Counter()
    for seed in range(1500):
        random = generator(4, seed)
        scene = random_scene(random)
        look, text = scene.look, scenes.caption(scene, random)
        bare = text.removeprefix("A photo of ")
        assert bare.startswith(("a ", "an ")) and look.kind in bare.split()
        traits = {value for value in (*scenes.BREEDS, *scenes.COATS, *scenes.MARKINGS, *scenes.ACCESSORIES) if value in bare}
        colours = {look.accessory.split()[0]} if look.accessory else set()
        assert traits <= {look.breed, look.coat, look.marking, look.accessory} | colours, text
        assert not any(place in text for place in PLACES if place != scene.place)
        said.update(prefix=text != bare, place=scene.place in text, bare=bare == f"a {look.kind}")
        said.update(coat=f"{look.coat} " in bare) if look.coat else None
        longest = max(longest, int((tokenizer([text]) != 0).sum()) - 2)
    assert 0.55 < said["prefix"] / 1500 < 0.65 and 0.7 < said["place"] / 1500 < 0.8 and said["bare"] > 50
    assert longest < 22


def test_labels():
    scene = random_scene(generator(0, 0), SUBJECT, "in the snow")
    assert scenes.labels(scene) == {"kind": 0, "place": 2, "breed": 1, "coat": 5, "marking": 2, "accessory": 3}
    cat = random_scene(generator(0, 0), Look("cat", "", "white", "plain", "nothing"), "in a bucket")
    assert scenes.labels(cat) == {"kind": 1, "place": 8, "breed": -1, "coat": 3, "marking": 0, "accessory": 0}
    car = scenes.labels(random_scene(generator(0, 0), Look("car"), "at night"))
    assert car == {"kind": 3, "place": 5, "breed": -1, "coat": -1, "marking": -1, "accessory": -1}


def test_the_subject_is_trained_and_held_out_in_different_places():
    training, held_out = (subject_scenes(10, 0, flag) for flag in (False, True))
    assert {scene.place for scene in training} == set(scenes.SUBJECT_PLACES) and len(scenes.SUBJECT_PLACES) == 5
    assert {scene.place for scene in held_out} == set(scenes.HELD_OUT_PLACES)
    assert set(scenes.SUBJECT_PLACES) | set(scenes.HELD_OUT_PLACES) == set(PLACES)
    assert not set(scenes.SUBJECT_PLACES) & set(scenes.HELD_OUT_PLACES)
    assert all(scene.look == SUBJECT for scene in training + held_out)
    first, again, other = (subject_pictures(5, 64, seed, False) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) and not np.array_equal(a, c) for a, b, c in zip(first, again, other))


def test_the_command_draws_the_world(tmp_path):
    arguments = ["--number", "6", "--size", "32", "--seed", "7", "--sheet", str(tmp_path / "sheet.png")]
    draw_world.main(["--output", str(tmp_path / "a"), *arguments])
    draw_world.main(["--output", str(tmp_path / "b"), *arguments])
    draw_world.main(["--output", str(tmp_path / "c"), "--number", "6", "--size", "32", "--seed", "8"])
    a, b, c = ([path.read_bytes() for path in list_images(tmp_path / name, "--output")] for name in "abc")
    assert a == b and len(set(a)) == 6 and not set(a) & set(c)
    lines = [json.loads(line) for line in (tmp_path / "a" / "captions.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"{i:05d}.png" for i in range(6)]
    assert all(KINDS[line["labels"]["kind"]] in line["caption"] for line in lines)
    assert read_image(tmp_path / "a" / "00000.png").shape == (32, 32, 3)
    assert read_image(tmp_path / "sheet.png").shape[1] > 4 * 288


@pytest.mark.parametrize("which", ["training", "held-out"])
def test_the_command_draws_the_subject(tmp_path, which):
    draw_world.main(["--output", str(tmp_path / "a"), "--subject", which])
    photos = [read_image(path) for path in list_images(tmp_path / "a", "--output")]
    assert [photo.shape for photo in photos] == [(384, 384, 3)] * 5
    wanted = subject_pictures(5, 384, 0, which == "held-out")
    assert all(np.array_equal(photo, picture) for photo, picture in zip(photos, wanted))
    assert len(list((tmp_path / "a").iterdir())) == 5
    before = {path: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.raises(UserError, match="holds images already"):
        draw_world.main(["--output", str(tmp_path / "a")])
    assert {path: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--number", "0"], "--number: 0 is too small: at least 1"),
        (["--size", "8"], "--size: 8 is too small: at least 16"),
        (["--seed", "-1"], "--seed: -1 is too small: at least 0"),
        (["--sheet", "a.jpg"], "--sheet a.jpg is no PNG"),
    ],
)
def test_the_command_refuses(tmp_path, flags, sentence):
    with pytest.raises(UserError, match=sentence):
        draw_world.main(["--output", str(tmp_path / "a"), *flags])
    assert not (tmp_path / "a").exists()


def test_the_command_as_a_person_runs_it(root, tmp_path):
    command = [sys.executable, str(root / "tools" / "draw_world.py"), "--output", str(tmp_path / "a"), "--number", "2"]
    assert subprocess.run(command).returncode == 0
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
