"""Prompts as A1111 and ComfyUI read them, layers left out, and textual inversion.

The expected parts and chunks are what the originals made of these prompts (A1111 `parse_prompt_attention` and `tokenize_line`,
ComfyUI `token_weights` and `tokenize_with_weights`); embeddings are compared with transformers' encoders and with diffusers.
"""

import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import diffusers_models
import tiny
from gm.checkpoint.embeddings import open_embeddings
from gm.encoding.source import Source
from gm.encoding.text import TextEmbedder, load_embedder, require_readable, same_length
from gm.errors import UserError
from gm.models import tokenizer
from gm.models.prompt_chunks import chunks_of, tokens_in
from gm.models.prompt_weights import HEAVIEST, a1111_parts, comfyui_parts
from gm.models.tokenizer import token_ids
from gm.options.sample import parse_sample, sample_settings
from gm.runtime import CPU
from modes import in_mode

A1111 = [
    ("a dog", [("a dog", 1.0)]),
    ("", [("", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("((a))", [("a", 1.1 * 1.1)]),
    ("(a:1.3)[b]", [("a", 1.3), ("b", 1 / 1.1)]),
    ("(a (b:2))", [("a ", 1.1), ("b", 2 * 1.1)]),
    ("(never closed", [("never closed", 1.1)]),
    ("closed) twice)", [("closed) twice)", 1.0)]),
    (r"\(as it is\) \[so\]", [("(as it is) [so]", 1.0)]),
    ("a :1.2) b", [("a :1.2) b", 1.0)]),
    ("(:1.2)", []),
    ("a BREAK b", [("a", 1.0), None, ("b", 1.0)]),
    ("(a BREAK b:1.2)", [("a", 1.2), None, ("b", 1.2)]),  # A1111 reads the word here, with a weight of its own
]
COMFYUI = [
    ("a dog", [("a dog", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("((a))", [("a", 1.1 * 1.1)]),
    ("(a:1.3)[b]", [("a", 1.3), ("[b]", 1.0)]),
    ("(a (b:2))", [("a ", 1.1), ("b", 2.0)]),
    ("((a:2) b:0.5)", [("a", 2.0), (" b", 0.5)]),
    ("(never closed", [("(never closed", 1.0)]),
    (r"\(as it is\)", [("(as it is)", 1.0)]),
    ("(a:b)", [("a:b", 1.1)]),
    ("a BREAK b", [("a BREAK b", 1.0)]),
]
REFUSED = [
    ("a1111", "a dog AND a cat", "combines prompts by AND"),
    ("a1111", "a [dog:cat:0.5]", "changes the prompt between steps"),
    ("a1111", "a [dog|cat]", "changes the prompt between steps"),
    ("a1111", "(a:1.2.3)", "is no weight"),
    ("a1111", "(a:99999)", "too strong"),
    ("a1111", "(" * 200 + "a", "too strong"),
    ("comfyui", "(a:1e9)", "too strong"),
    ("comfyui", "(" * 200 + "a" + ")" * 200, "too strong|brackets within brackets"),
    ("comfyui", "(" * 200 + "a" + ":1)" * 200, "brackets within brackets"),
    ("comfyui", "a embedding:nothing", "is no learned word"),
]


@pytest.mark.parametrize("prompt, expected", A1111)
def test_parts_of_a1111(prompt, expected):
    found = [None if part.text is None else (part.text, pytest.approx(part.weight)) for part in a1111_parts(prompt)]
    assert found == (expected or [("", 1.0)])


@pytest.mark.parametrize("prompt, expected", COMFYUI)
def test_parts_of_comfyui(prompt, expected):
    assert [(part.text, pytest.approx(part.weight)) for part in comfyui_parts(prompt)] == expected


@pytest.mark.parametrize("style, prompt, words", REFUSED)
def test_what_has_no_meaning_is_refused(style, prompt, words):
    with pytest.raises(ValueError, match=words):
        chunks_of(prompt, style)
    with pytest.raises(UserError, match=words):
        require_readable([prompt], Source(tiny.model(), "a", CPU, prompt_style=style), {})


def rows(prompt: str, style: str, words={}) -> list[list[int]]:
    """The ids of the text of each chunk."""
    found = []
    for row in chunks_of(prompt, style, words).ids_l.tolist():
        found.append(row[1 : row.index(tokenizer.ClipTokenizer.END)])
    return found


def test_chunks_of_a1111():
    """A chunk ends at BREAK, after 75 tokens, or at a comma less than 20 tokens before."""
    dog, comma = token_ids("dog")[0], token_ids(",")[0]
    assert rows(" ".join(["dog"] * 80), "a1111") == [[dog] * 75, [dog] * 5]
    assert rows("dog BREAK dog dog", "a1111") == [[dog], [dog, dog]]
    assert rows(" ".join(["dog"] * 60) + ", " + " ".join(["dog"] * 20), "a1111") == [[dog] * 60 + [comma], [dog] * 20]
    far = rows(" ".join(["dog"] * 50) + ", " + " ".join(["dog"] * 30), "a1111")
    assert far == [[dog] * 50 + [comma] + [dog] * 24, [dog] * 6]
    assert rows("", "a1111") == [[]]


def test_chunks_of_comfyui():
    """What stands between weights is cut at the end of a chunk, unless it has less than eight tokens."""
    dog, cat = token_ids("dog")[0], token_ids("cat")[0]
    assert rows(" ".join(["dog"] * 80), "comfyui") == [[dog] * 75, [dog] * 5]
    assert rows(" ".join(["dog"] * 70) + " (" + "cat " * 7 + ")", "comfyui") == [[dog] * 70, [cat] * 7]
    assert rows(" ".join(["dog"] * 70) + " (" + "cat " * 8 + ")", "comfyui") == [[dog] * 70 + [cat] * 5, [cat] * 3]


def test_a_learned_word_stands_for_its_tokens():
    words = {"my-dog": [49408, 49409]}
    of, a = token_ids("photo of")[-1], token_ids("a")[0]
    assert rows("a photo of my-dog", "a1111", words)[0][-3:] == [of, 49408, 49409]
    assert rows("a (MY-DOG:1.2)", "a1111", words) == [[a, 49408, 49409]]
    assert chunks_of("a (MY-DOG:1.2)", "a1111", words).weights[0, :5].tolist() == pytest.approx([1, 1, 1.2, 1.2, 1])
    assert rows("a embedding:my-dog, a", "comfyui", words) == [[a, 49408, 49409, token_ids(",")[0], a]]
    plain = tokenizer.ClipTokenizer(0, 75, words)(["a my-dog", "a my-doggy"])
    assert plain[0, 1:5].tolist() == [a, 49408, 49409, 49407] and 49408 not in plain[1]
    assert tokens_in("dog " * 74 + "my-dog dog", "plain", 75, words) == (74, "my-dog dog")
    assert tokens_in("dog " * 80, "plain") == (75, "dog dog dog dog dog") and tokens_in("dog " * 80, "a1111") == (80, "")


PIECES = st.sampled_from(["(", ")", "[", "]", ":", "1.2", ":1.5)", "\\", ",", " ", "dog", "BREAK", "é", "\n", "x" * 40])


@settings(deadline=None, max_examples=200)
@given(st.lists(PIECES, max_size=60).map("".join))
@example("(a:1.2)" * 30)
@example("\\" * 9 + "(")
def test_any_prompt_has_chunks_or_one_reason(prompt):
    for style in ("a1111", "comfyui"):
        try:
            chunks = chunks_of(prompt, style)
        except ValueError:
            continue
        assert chunks.ids_l.shape == chunks.ids_g.shape == chunks.weights.shape and chunks.ids_l.shape[1] == 77
        assert np.isfinite(chunks.weights).all() and np.abs(chunks.weights).max() <= HEAVIEST
        assert (chunks.ids_l[:, 0] == 49406).all() and ((chunks.ids_g == 49407).any(1)).all()


@settings(deadline=None, max_examples=50)
@given(st.text("abc dogcat,.!'", max_size=100))
def test_text_without_signs_is_the_plain_one(prompt):
    plain = tokenizer.ClipTokenizer(tokenizer.CLIP_PAD)([prompt])
    for style in ("a1111", "comfyui"):
        found = chunks_of(prompt, style)
        if len(found.ids_l) == 1:
            assert style == "comfyui" or found.ids_l.tolist() == plain.tolist()
            assert (found.weights == 1).all()


# -- embeddings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(tiny_weights, base_shapes):
    """transformers' text encoders with the tiny weights."""
    arrays = diffusers_models.tensors(tiny_weights, base_shapes)
    made = diffusers_models.text_encoders(tiny.model())
    return {part: diffusers_models.fill(model, arrays[part]).eval() for part, model in made.items()}


def embedder(weights, **more) -> TextEmbedder:
    source = Source(tiny.model(), str(weights), CPU, **more)
    return load_embedder(source, source.open())


@torch.no_grad()
def states(originals, ids_l: np.ndarray, ids_g: np.ndarray) -> list[torch.Tensor]:
    """The context of each encoder for one chunk, (77, width)."""
    given = [torch.from_numpy(ids[None].astype(np.int64)) for ids in (ids_l, ids_g)]
    first = originals["text_encoder"](given[0], output_hidden_states=True).hidden_states[3]
    return [first[0], originals["text_encoder_2"](given[1], output_hidden_states=True).hidden_states[-2][0]]


PROMPT = "a (red:1.4) dog on [grass], " + "dog " * 80


def test_weights_act_as_in_a1111(tiny_weights, originals):
    """Times the weight, and every encoder's chunk back to its mean."""
    chunks, expected = chunks_of(PROMPT, "a1111"), []
    for ids_l, ids_g, weights in zip(*chunks):
        parts = []
        for z in states(originals, ids_l, ids_g):
            weighted = z * torch.from_numpy(weights)[:, None]
            parts.append(weighted * (z.mean() / weighted.mean()))
        expected.append(torch.cat(parts, -1))
    with in_mode(ms.PYNATIVE_MODE):
        text = embedder(tiny_weights, prompt_style="a1111")([PROMPT])[PROMPT]
    assert text.context.shape == (154, 48)
    assert tiny.relative_error(text.context, torch.cat(expected).numpy()) < 1e-4


def test_weights_act_as_in_comfyui(tiny_weights, originals):
    """As far from the embedding of an empty prompt."""
    empty = states(originals, *(one[0] for one in chunks_of("", "comfyui")[:2]))
    chunks, expected = chunks_of(PROMPT, "comfyui"), []
    for ids_l, ids_g, weights in zip(*chunks):
        factor = torch.from_numpy(weights)[:, None]
        parts = zip(states(originals, ids_l, ids_g), empty)
        expected.append(torch.cat([(z - nothing) * factor + nothing for z, nothing in parts], -1))
    with in_mode(ms.PYNATIVE_MODE):
        text = embedder(tiny_weights, prompt_style="comfyui")([PROMPT])[PROMPT]
    assert tiny.relative_error(text.context, torch.cat(expected).numpy()) < 1e-4


def clip_tokenizer():
    """transformers' with CLIP's own vocabulary."""
    from transformers import CLIPTokenizer

    model = json.loads(tokenizer._encoder().to_str())["model"]
    return CLIPTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], model_max_length=77)


def pipeline_of(originals):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    second = clip_tokenizer()
    second.pad_token = "!"
    networks = {"unet": None, "vae": None, "scheduler": EulerDiscreteScheduler()}
    return StableDiffusionXLPipeline(**networks, **originals, tokenizer=clip_tokenizer(), tokenizer_2=second)


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
def test_layers_are_left_out_as_in_diffusers(tiny_weights, originals, clip_skip):
    pipe = pipeline_of(originals)
    with torch.no_grad():
        context, _, pooled, _ = pipe.encode_prompt("a red dog", device="cpu", do_classifier_free_guidance=False,
                                                   clip_skip=clip_skip)  # fmt: skip
    with in_mode(ms.PYNATIVE_MODE):
        text = embedder(tiny_weights, clip_skip=clip_skip)(["a red dog"])["a red dog"]
    assert tiny.relative_error(text.context, context[0].numpy()) < 1e-4
    assert tiny.relative_error(text.pooled, pooled[0].numpy()) < 1e-4


@pytest.fixture
def inversion(tmp_path) -> str:
    noise = np.random.default_rng(5)
    rows = {"clip_l": noise.standard_normal((2, 16)), "clip_g": noise.standard_normal((2, 32))}
    save_file({name: value.astype(np.float32) for name, value in rows.items()}, tmp_path / "my-dog.safetensors")
    return str(tmp_path / "my-dog.safetensors")


def test_textual_inversion_is_that_of_diffusers(tiny_weights, base_shapes, inversion):
    from safetensors.torch import load_file

    arrays = diffusers_models.tensors(tiny_weights, base_shapes)
    made = diffusers_models.text_encoders(tiny.model())
    pipe = pipeline_of({part: diffusers_models.fill(model, arrays[part]).eval() for part, model in made.items()})
    for letter, network, words in (("l", pipe.text_encoder, pipe.tokenizer), ("g", pipe.text_encoder_2, pipe.tokenizer_2)):
        rows = load_file(inversion)[f"clip_{letter}"]
        pipe.load_textual_inversion(rows, token="my-dog", text_encoder=network, tokenizer=words)
    with torch.no_grad():
        context, _, pooled, _ = pipe.encode_prompt("a photo of my-dog", device="cpu", do_classifier_free_guidance=False)
    prompt = "a photo of my-dog"
    with in_mode(ms.PYNATIVE_MODE):
        text = embedder(tiny_weights, embeddings=(inversion,))([prompt])[prompt]
        without = embedder(tiny_weights)([prompt])[prompt]
    assert tiny.relative_error(text.context, context[0].numpy()) < 1e-4
    assert tiny.relative_error(text.pooled, pooled[0].numpy()) < 1e-4
    assert tiny.relative_error(without.context, context[0].numpy()) > 0.1


@pytest.mark.parametrize(
    "tensors, given, words",
    [
        ({"clip_l": (2, 16)}, "{}", "has no clip_g"),
        (
            {"clip_l": (2, 768), "clip_g": (2, 1280)},
            "{}",
            r"clip_l has the shape \(2, 768\), but the model takes 1 to 75 rows of 16",
        ),
        ({"clip_l": (2, 16), "clip_g": (3, 32)}, "{}", "has 2 and 3 rows"),
        ({"clip_l": (76, 16), "clip_g": (76, 32)}, "{}", "1 to 75 rows"),
        ({"clip_l": (1, 16), "clip_g": (1, 32)}, "={}", "the name '' is empty or taken"),
        ({"clip_l": (1, 16), "clip_g": (1, 32)}, "x={},X={}", "the name 'X' is empty or taken"),
    ],
)
def test_a_file_that_is_no_inversion_of_this_model(tmp_path, tensors, given, words):
    path = tmp_path / "a.safetensors"
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, path)
    with pytest.raises(UserError, match=words):
        open_embeddings(given.replace("{}", str(path)).split(","), tiny.model())


def test_layers_that_are_not_there_cannot_be_left_out():
    source = Source(tiny.model(), "a", CPU, clip_skip=3)
    with pytest.raises(UserError, match="--clip_skip 3 leaves no layer of a text encoder: give at most 2"):
        require_readable([], source, {})
    assert replace(source, clip_skip=2).text_model().text_encoders[0].layer_idx == 1


def test_copies_of_a_text_are_the_text():
    first, second = np.arange(6.0).reshape(3, 2), np.arange(4.0).reshape(2, 2)
    longer = same_length([first, second, first])
    assert [one.shape for one in longer] == [(6, 2)] * 3 and (longer[0] == np.tile(first, (2, 1))).all()
    query = np.array([[0.3, -0.2]])
    for one, copies in zip((first, second), longer):
        found = [np.exp(query @ keys.T) @ keys / np.exp(query @ keys.T).sum() for keys in (one, copies)]
        assert np.allclose(*found)


def test_a_number_of_tokens_is_for_the_plain_style():
    words = ["--prompt_style", "a1111", "--max_tokens", "150", "--device_target", "CPU"]
    with pytest.raises(UserError, match="--max_tokens 150 is for --prompt_style plain"):
        sample_settings(parse_sample(words), 8)
