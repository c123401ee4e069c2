"""The example file of CLIP and DINO: on tiny random networks, beside transformers' own calls, through the hook of
tools/evaluate.py."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import tiny
from gm.errors import UserError
from gm.evaluation import fidelity
from gm.evaluation.features import load_features

FILE = tiny.ROOT / "tools/features/clip_dino.py"
PROMPTS = ["a sks dog in the snow", "a dog", "sks " * 100]  # the last has more tokens than CLIP reads


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """CLIP, DINOv2 and DINO as transformers saves them, random and small."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    letters = [chr(i) for i in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    text = {**small, "vocab_size": len(words), "max_position_embeddings": 77, "bos_token_id": len(words) - 2}
    text |= {"eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = transformers.CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8})
    transformers.CLIPModel(config).save_pretrained(folder / "clip")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    pixels = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(pixels, tokenizer).save_pretrained(folder / "clip")
    transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=28, patch_size=14)).save_pretrained(
        folder / "dinov2"
    )
    transformers.BitImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 28, "width": 28}, image_mean=[0.5] * 3
    ).save_pretrained(folder / "dinov2")
    transformers.ViTModel(transformers.ViTConfig(**small, image_size=32, patch_size=16)).save_pretrained(folder / "dino")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "dino")
    return folder


@pytest.fixture
def pictures():
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (40, 40, 3), np.uint8) for _ in range(18)]  # more than a batch


def loaded(monkeypatch, folders, dino="dinov2", distance="dino"):
    monkeypatch.setenv("CLIP_FOLDER", str(folders / "clip"))
    monkeypatch.setenv("DINO_FOLDER", str(folders / dino))
    monkeypatch.setenv("FEATURES_DISTANCE", distance)
    return load_features(str(FILE))


@pytest.mark.parametrize("name", ["dinov2", "dino"])
def test_image_is_dinos_class_token(monkeypatch, folders, pictures, name):
    """As transformers computes it from PIL pictures; DINOv2's is its pooled output as well."""
    features = loaded(monkeypatch, folders, name)
    model = transformers.AutoModel.from_pretrained(folders / name).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders / name)
    with torch.no_grad():
        outputs = model(**processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt"))
    mine = features.image(pictures)
    assert mine.shape == (18, 32) and np.abs(mine - outputs.last_hidden_state[:, 0].numpy()).max() < 1e-5
    if name == "dinov2":
        assert np.abs(mine - outputs.pooler_output.numpy()).max() < 1e-5
    distances = features.distance(pictures)
    expected = 1 - fidelity.similarity(mine[:1], mine[1:2])
    assert distances[0, 1] == pytest.approx(expected, abs=1e-6) and np.abs(np.diag(distances)).max() < 1e-6


def test_prompt_is_clips_cosine(monkeypatch, folders, pictures):
    """logits_per_image over the scale, of each picture with its own prompt."""
    features = loaded(monkeypatch, folders)
    prompts = [PROMPTS[i % 3] for i in range(18)]
    model = transformers.CLIPModel.from_pretrained(folders / "clip").eval()
    processor = transformers.CLIPProcessor.from_pretrained(folders / "clip")
    images = [Image.fromarray(picture) for picture in pictures]
    inputs = processor(text=prompts, images=images, return_tensors="pt", padding=True, truncation=True)
    with torch.no_grad():
        expected = (model(**inputs).logits_per_image / model.logit_scale.exp()).diagonal().numpy()
    mine = features.prompt(pictures, prompts)
    assert np.abs(mine - expected).max() < 1e-5 and features.threshold is None
    assert np.abs(mine - features.prompt(pictures, prompts[1:] + prompts[:1])).max() > 1e-3  # the prompt matters


def test_distance_is_lpips_where_it_is_installed(monkeypatch, folders, pictures):
    """Each pair once, pixels from -1 to 1, scaled down to the side that LPIPS was made for."""
    seen = []

    class Lpips(torch.nn.Module):
        def forward(self, first, second):
            seen.append((tuple(second.shape), float(second.min()), float(second.max())))
            return (first - second).abs().mean((1, 2, 3), keepdim=True)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=lambda **_: Lpips(), __spec__=SimpleNamespace()))
    found = loaded(monkeypatch, folders, distance="auto").distance(pictures[:3])
    expected = np.abs(pictures[0].astype(float) - pictures[1]).mean() / 127.5
    assert found.shape == (3, 3) and found[0, 1] == pytest.approx(expected, rel=1e-5) and np.abs(np.diag(found)).max() == 0
    assert seen[0] == ((3, 3, 40, 40), -1.0, 1.0)
    loaded(monkeypatch, folders, distance="lpips").distance([np.kron(p, np.ones((16, 8, 1), np.uint8)) for p in pictures[:2]])
    assert seen[-1][0] == (2, 3, 256, 128)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"CLIP_FOLDER": "nowhere"}, "CLIP_FOLDER nowhere is not a folder: set CLIP_FOLDER"),
        ({"DINO_FOLDER": "."}, "DINO_FOLDER . lacks config.json, model.safetensors or"),
        ({"CLIP_FOLDER": "dinov2"}, "lacks tokenizer.json or vocab.json: give a whole"),
        ({"FEATURES_DISTANCE": "ssim"}, "FEATURES_DISTANCE ssim is not known"),
        ({"FEATURES_DISTANCE": "lpips"}, "lpips cannot be imported .*: install it with pip"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, folders, tmp_path, change, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "lpips", None)
    change = {name: str(folders / value) if value == "dinov2" else value for name, value in change.items()}
    monkeypatch.setenv("CLIP_FOLDER", str(folders / "clip"))
    monkeypatch.setenv("DINO_FOLDER", str(folders / "dinov2"))
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        load_features(str(FILE))
