"""What is kept on disk from run to run, when it is used again and when not; and that a run never notices the difference."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import tiny
import train_dreambooth as training
from bad_files import halves
from gm.checkpoint.io import open_tensors, write_tensors
from gm.checkpoint.weights import open_base
from gm.config.types import CaptionConfig
from gm.data.captions import Caption
from gm.data.crops import Photo, PhotoSet
from gm.data.disk_cache import DiskCache
from gm.data.dreambooth import INSTANCE
from gm.data.images import image_size, read_image
from gm.encoding import photos as photos_of
from gm.encoding import text as texts_of
from gm.encoding.text import TextEmbedding, embed_prompts
from gm.errors import UserError
from gm.parallel.ranks import Ranks
from gm.runtime import Runtime
from gm.training import precompute
from gm.training.precompute import Precompute


class Computed(list):
    """What has been computed, by stand-ins for the networks that are quick and depend on their input."""

    def run_in_subprocess(self, function, *args):
        if function is embed_prompts:
            prompts, source = args
            assert not source.use_lora
            self.extend(prompts)
            return {
                prompt: TextEmbedding(np.full((77, WIDTH), len(prompt), np.float32), np.full(POOLED, 0.5, np.float32))
                for prompt in prompts
            }
        return function(*args)

    def encoder(self, _):
        def encode(square, photo):
            self.append(square.path.name)
            pixels = square.pixels(photo)
            side = pixels.shape[1] // 8
            return np.stack([np.full((4, side, side), pixels.mean()), pixels[:1, :side, :side].repeat(4, 0)]).astype(
                np.float32
            )

        return encode

    def since(self) -> list[str]:
        """Sorted, and forgotten."""
        done = sorted(self)
        self.clear()
        return done


@pytest.fixture
def computed(monkeypatch):
    done = Computed()
    for module in (photos_of, texts_of):
        monkeypatch.setattr(module, "run_in_subprocess", done.run_in_subprocess)
    monkeypatch.setattr(photos_of, "CropEncoder", done.encoder)
    monkeypatch.setattr(photos_of.sdxl, "load", lambda cell, *_: cell)
    return done


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (40, 64, 3)), ("b.png", (64, 64, 3)), ("c.jpg", (90, 40, 3))):
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / name)
    return sorted(folder.iterdir())


DRAWS = [(INSTANCE, image, repeat) for repeat in range(2) for image in range(3)]
WIDTH, POOLED = tiny.model().unet.context_dim, tiny.model().text_encoders[1].embed_dim
ALL = ["a.png", "a.png", "b.png", "c.jpg", "c.jpg"]  # both repeats of a square photo cut the same square


def make(weights, folder, model=None, ranks=Ranks(), level="O0"):
    return Precompute(model or tiny.model(), open_base(weights), Runtime("CPU", 0, level), ranks, DiskCache(folder))


def keys_of(made: Precompute) -> dict:
    """The key of an embedded prompt."""
    asked = []
    replace(made, disk=SimpleNamespace(folder=None, get=lambda key, *_: asked.append(key), put=lambda *_: None)).embed(
        ["a cat"]
    )
    return asked[0]


def encode(weights, photos, folder, size=32, **more):
    """The samples and their posteriors."""
    made = make(weights, folder, **more)
    given = [Photo(path, Caption("a dog", CaptionConfig()), (size, size)) for path in photos]
    samples = made.plan([PhotoSet(INSTANCE, given, 3, "random", 42)], DRAWS)
    return samples, made.encode(samples)


def rows(encoded) -> list[np.ndarray]:
    samples, posterior = encoded
    return [array for draw in DRAWS for array in (posterior(samples[draw].crop), samples[draw].sizes)]


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(rows(first), rows(second)))


def changed(weights, path, prefix):
    """The weight file with one number of the first tensor with this prefix changed."""
    with open_tensors(weights) as file:
        tensors = {name: file.read(name).copy() for name in file.names}
    name = next(name for name in tensors if name.startswith(prefix))
    tensors[name].reshape(-1)[0] += 1
    write_tensors(path, tensors.items())
    return path


def test_photos_come_from_the_cache_until_one_changes(tiny_weights, photos, tmp_path, computed, project_log):
    folder = tmp_path / "cache"
    folder.mkdir()
    memory = encode(tiny_weights, photos, None)
    assert computed.since() == ALL and "from the cache" not in project_log.text
    first = encode(tiny_weights, photos, folder)
    assert computed.since() == ALL and "0 of 3 photos from the cache in" in project_log.text
    second = encode(tiny_weights, photos, folder)
    assert computed.since() == [] and "3 of 3 photos from the cache in" in project_log.text
    assert same(memory, first) and same(first, second)

    # another picture under the same name, of the same size in pixels and in bytes
    before = photos[2].stat().st_size
    picture = np.asarray(Image.open(photos[2]))[::-1]
    Image.fromarray(picture).save(photos[2])
    photos[2].write_bytes(photos[2].read_bytes().ljust(before, b"\0")[:before])
    project_log.clear()
    assert not same(encode(tiny_weights, photos, folder), second)
    assert computed.since() == ["c.jpg", "c.jpg"] and "2 of 3 photos from the cache in" in project_log.text

    # the same picture under another name, in another folder
    moved = photos[0].rename(tmp_path / "z.png")
    encode(tiny_weights, [moved, *photos[1:]], folder)
    assert computed.since() == []


def test_what_decides_the_numbers_decides_what_is_used_again(tiny_weights, photos, tmp_path, computed, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    encode(tiny_weights, photos, folder)
    computed.clear()
    encode(tiny_weights, photos, folder, size=64)
    assert computed.since() == ALL  # another size
    encode(changed(tiny_weights, tmp_path / "vae.safetensors", "first_stage_model.encoder."), photos, folder)
    assert computed.since() == ALL  # other weights
    encode(changed(tiny_weights, tmp_path / "unet.safetensors", "model.diffusion_model."), photos, folder)
    assert computed.since() == []  # weights that have no part in it
    encode(tiny_weights, photos, folder, model=replace(tiny.model(), vae=replace(tiny.model().vae, num_res_blocks=2)))
    assert computed.since() == ALL
    encode(tiny_weights, photos, folder)
    assert computed.since() == []  # and nothing of it was lost

    make(tiny_weights, folder).embed(["a dog", "a cat", "a dog"])
    assert computed.since() == ["a cat", "a dog"]
    texts = make(tiny_weights, folder).embed(["a cat", "a horse"])
    assert computed.since() == ["a horse"]
    assert (
        texts["a cat"].context.shape == (77, WIDTH)
        and texts["a cat"].context[76, -1] == 5
        and set(texts["a cat"].pooled) == {0.5}
    )
    make(changed(tiny_weights, tmp_path / "text.safetensors", "conditioner.embedders.1.model.transformer."), folder).embed(
        ["a cat"]
    )
    assert computed.since() == ["a cat"]
    make(tiny_weights, folder, level="O2").embed(["a cat"])
    assert computed.since() == ["a cat"]
    make(tiny_weights, folder, model=tiny.model()).embed(["a cat"])
    assert computed.since() == []  # prompts are embedded without LoRA
    longer = replace(make(tiny_weights, folder), max_tokens=150)
    longer.embed(["a cat"])
    assert computed.since() == ["a cat"]
    assert set(keys_of(longer)) - set(keys_of(make(tiny_weights, folder))) == {"max_tokens"}
    assert computed.since() == ["a cat", "a cat"]

    # the weights are hashed once as long as the file is the same
    monkeypatch.setattr(precompute.BaseWeights, "digest", lambda *_: pytest.fail("hashed again"))
    encode(tiny_weights, photos, folder)
    make(tiny_weights, folder).embed(["a cat"])
    assert computed.since() == []


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [cut_off, flip_a_bit, lambda path: path.write_bytes(b""), lambda path: path.write_text("{}")]
)
def test_a_damaged_entry_is_computed_again(tiny_weights, photos, tmp_path, computed, project_log, damage):
    folder = tmp_path / "cache"
    folder.mkdir()
    first = encode(tiny_weights, photos, folder)
    computed.clear()
    victims = [sorted(folder.glob("posterior_*"))[0], *folder.glob("weights_*")]
    whole = [victim.read_bytes() for victim in victims]
    for victim in victims:
        damage(victim)
    (folder / f".{victims[0].name}.host.1.tmp").write_bytes(whole[0][:99])  # what a killed run left
    second = encode(tiny_weights, photos, folder)
    assert len(computed.since()) == 1 and same(first, second)
    assert [victim.read_bytes() for victim in victims] == whole
    assert f"{victims[0]} is damaged" in project_log.text


def test_a_photo_that_is_gone_is_named(tiny_weights, photos, tmp_path):
    photos[1].unlink()
    with pytest.raises(UserError, match="b.png cannot be read any more"):
        encode(tiny_weights, photos, None)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_a_photo_is_that_of_its_pixels(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png", "a.webp"):
        halves().resize((30, 20)).save(tmp_path / name, exif=exif)
        assert image_size(tmp_path / name) == read_image(tmp_path / name).shape[:2]


class ThreadRanks(Ranks):
    """The ranks of one job as threads."""

    def __init__(self, rank, size, meeting, values):
        self.rank, self.size, self.meeting, self.values = rank, size, meeting, values

    def share(self, value):
        self.values[self.rank] = json.loads(json.dumps(value))
        self.meeting.wait(20)
        values = list(self.values)
        self.meeting.wait(20)
        return values


def gather_rows(rows, ranks):
    return np.concatenate([np.array(part, np.float32).reshape(-1, *rows.shape[1:]) for part in ranks.share(rows.tolist())])


def on_ranks(size, function):
    """The results of function(ranks) on every rank."""
    meeting, values = threading.Barrier(size), [None] * size
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: function(ThreadRanks(rank, size, meeting, values)), range(size)))


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ranks_compute_each_thing_once_together(tiny_weights, photos, tmp_path, computed, monkeypatch, ranks):
    monkeypatch.setattr(precompute, "gather_rows", gather_rows)
    alone = encode(tiny_weights, photos, None)
    assert computed.since() == ALL
    folders = [tmp_path / f"host{rank}" for rank in range(ranks)]
    for folder in (*folders, tmp_path / "shared"):
        folder.mkdir()
    encode(tiny_weights, photos[:2] * 2, folders[1])  # one host has kept the crops of two photos from another run
    assert set(computed.since()) == {"a.png", "b.png"}

    def of(folder):
        return lambda rank: encode(tiny_weights, photos, folder(rank.rank), ranks=rank)

    # no folder; a folder on each host; one that all share, empty and then full
    for folder, done in (
        (lambda _: None, ALL),
        (lambda rank: folders[rank], ["c.jpg", "c.jpg"]),
        (lambda rank: folders[rank], []),
        (lambda _: tmp_path / "shared", ALL),
        (lambda _: tmp_path / "shared", []),
    ):
        results = on_ranks(ranks, of(folder))
        assert computed.since() == done
        assert all(same(alone, result) for result in results)

    prompts = ["a dog", "a sks dog", "a cat"]
    results = on_ranks(ranks, lambda rank: make(tiny_weights, None, ranks=rank).embed(prompts))
    assert computed.since() == sorted(prompts)
    for texts in results:
        assert [texts[prompt].context[0, 0] for prompt in prompts] == [5, 9, 5]


def test_ranks_with_other_photos_are_told(tiny_weights, photos, tmp_path, computed):
    other = tmp_path / "other.png"
    halves().resize((64, 64)).save(other)

    def plan(rank):
        mine = [photos[0], other if rank.rank else photos[1], photos[2]]
        with pytest.raises(UserError, match="the content of the photos differs from that of rank 0"):
            encode(tiny_weights, mine, None, ranks=rank)

    on_ranks(2, plan)


@pytest.mark.xdist_group("small")
def test_cached_or_not_the_training_is_the_same(twice, tmp_path, run):
    """In memory, from disk, and encoded whenever drawn; from a warm folder no network but the UNet is loaded."""
    cold, warm = twice.cold, twice.warm
    assert "loading text encoders" in cold.said and "encoding photos" in cold.said
    assert "2 of 2 prompts from the cache in" in warm.said and "photos from the cache in" in warm.said
    assert "loading text encoders" not in warm.said and "loading VAE" not in warm.said and "encoding" not in warm.said
    losses = [line["loss"] for line in cold.records]
    assert [line["loss"] for line in warm.records] == losses
    assert all(np.array_equal(cold.lora[key], warm.lora[key]) for key in cold.lora)
    drawn = twice.train("drawn", "--cache_latents", "False")
    assert "photos from the cache" not in drawn.said and "loading VAE" in drawn.said
    assert [line["loss"] for line in drawn.records] == losses
    (tmp_path / "file").write_text("")
    for flag in ("--cache_dir", "--compile_cache_dir"):
        status, said = run(training, *twice.small.arguments(tmp_path / "refused", flag, tmp_path / "file"))
        assert status == 2 and f"error: {flag} " in said
