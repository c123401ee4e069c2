"""Prompts of more than 75 tokens: their ids and contexts against transformers' own tokenizer and text encoders, joined as
sd-scripts joins them; and that nothing else of a run notices their length."""

import json
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

import diffusers_models
import tiny
from gm.config.load import load_config
from gm.encoding.source import source_of
from gm.encoding.text import TextEmbedder
from gm.errors import UserError
from gm.models import sdxl, tokenizer
from gm.models.conditioner import context_length, tokenize
from gm.models.tokenizer import CLIP_PAD, OPEN_CLIP_PAD, ClipTokenizer
from gm.runtime import CPU
from gm.training.batches import TextRows
from modes import in_mode

START, END = 49406, 49407
MAX_TOKENS = "data.dataset_config.params.max_tokens"
WORDS = "dog cat car tree house river stone cloud red green blue small large old young bright dark".split()


def words(count: int, seed: int = 0) -> str:
    """So many words of one token each."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


# shorter than a chunk, one less than it, as long, two of them, two and more, three, and too long
PROMPTS = [words(n, n) for n in (0, 5, 74, 75, 76, 149, 150, 151, 225, 240)] + ["a (photo) of a dog!!", "Ünïcode 犬, 123"]


@pytest.fixture(scope="module")
def clip():
    """transformers' tokenizer with CLIP's own vocabulary: prompts of one length -> ids (B, max_tokens + 2)."""
    from transformers import CLIPTokenizer

    model = json.loads(tokenizer._encoder().to_str())["model"]
    made = CLIPTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])

    def ids(prompt: str, max_tokens: int, pad: int) -> np.ndarray:
        found = made(prompt.lower(), truncation=True, max_length=max_tokens + 2).input_ids
        return np.array(found + [pad] * (max_tokens + 2 - len(found)))

    return ids


def chunks_of(ids: np.ndarray, pad: int) -> np.ndarray:
    """One long row (n * 75 + 2,) -> (n, 77), by the rules of sd-scripts' tokenizer: the row's first and last token around
    every 75 of it; where they pad with another token than the end, a full chunk ends and an empty one begins with the end."""
    rows = []
    for body in ids[1:-1].reshape(-1, 75):
        row = np.concatenate((ids[:1], body, ids[-1:]))
        if pad != END and row[-2] not in (END, pad):
            row[-1] = END
        if pad != END and row[1] == pad:
            row[1] = END
        rows.append(row)
    return np.stack(rows)


@pytest.mark.parametrize("max_tokens", [75, 150, 225])
@pytest.mark.parametrize("pad", [CLIP_PAD, OPEN_CLIP_PAD])
def test_ids_are_those_of_sd_scripts(clip, max_tokens, pad):
    given = ClipTokenizer(pad, max_tokens)(PROMPTS)
    assert given.shape == (len(PROMPTS), max_tokens // 75 * 77) and given.dtype == np.int32
    for prompt, row in zip(PROMPTS, given):
        assert row.tolist() == chunks_of(clip(prompt, max_tokens, pad), pad).reshape(-1).tolist(), prompt


def test_what_is_cut_is_said(project_log):
    ClipTokenizer(CLIP_PAD, 150)([words(150) + " in a yellow bucket"])
    assert "longer than 150 tokens, this part is not used: 'in a yellow bucket'" in project_log.text


@pytest.fixture(scope="module")
def encoders(tiny_weights):
    from gm.checkpoint.weights import open_base

    cell = sdxl.build_text_encoders(tiny.model())
    sdxl.fill([cell], open_base(tiny_weights).read)
    return cell


@pytest.fixture(scope="module")
def originals(tiny_weights, base_shapes):
    """transformers' text encoders with the tiny weights."""
    arrays = diffusers_models.tensors(tiny_weights, base_shapes)
    made = diffusers_models.text_encoders(tiny.model())
    return [diffusers_models.fill(model, arrays[part]).eval() for part, model in made.items()]


def joined_by_sd_scripts(originals, clip, prompt: str, max_tokens: int):
    """The context (n * 75 + 2, c) and the pooled text (e,)."""
    hidden, pooled = [], None
    for model, pad, config in zip(originals, (CLIP_PAD, OPEN_CLIP_PAD), tiny.model().text_encoders):
        chunks = chunks_of(clip(prompt, max_tokens, pad), pad)
        with torch.no_grad():
            output = model(torch.from_numpy(chunks), output_hidden_states=True)
            states = output.hidden_states[config.layer_idx]  # (n, 77, width)
            if config.kind == "open_clip":
                place = int((chunks[0] == END).argmax())
                pooled = model.text_projection(output.last_hidden_state[0, place]).numpy()
        text = torch.cat([chunk[1:-1] for chunk in states])
        hidden.append(torch.cat((states[0, :1], text, states[-1, -1:])).numpy())
    return np.concatenate(hidden, -1), pooled


@pytest.mark.parametrize("count, max_tokens", [(40, 75), (40, 225), (100, 150), (150, 150)])
def test_contexts_are_those_of_sd_scripts(originals, encoders, clip, count, max_tokens):
    prompt = words(count)
    context, pooled = joined_by_sd_scripts(originals, clip, prompt, max_tokens)
    with in_mode(ms.PYNATIVE_MODE):
        text = TextEmbedder(encoders, max_tokens)([prompt])[prompt]
    assert text.context.shape == context.shape == (context_length(max_tokens), 48)
    assert tiny.relative_error(text.context, context) < 1e-4
    assert tiny.relative_error(text.pooled, pooled) < 1e-4


def test_each_chunk_is_encoded_by_itself(encoders):
    """Also where it stands beside another prompt, in graph mode, and its gradient reaches every chunk."""
    parts = [words(75, 1), words(75, 2), words(20, 3), ""]
    prompts = [" ".join(parts[:3]), parts[2]]
    alone = [array.asnumpy() for array in encoders(*map(Tensor, tokenize(parts)))]
    context, pooled = (array.asnumpy() for array in encoders(*map(Tensor, tokenize(prompts, 225))))
    assert context.shape == (2, 227, 48)
    for row, chunks in enumerate(((0, 1, 2), (2, 3, 3))):
        for place, number in enumerate(chunks):
            here = context[row, 1 + 75 * place : 76 + 75 * place]
            assert tiny.relative_error(here, alone[0][number, 1:76]) < 1e-5
        assert tiny.relative_error(context[row, 0], alone[0][chunks[0], 0]) < 1e-5
        assert tiny.relative_error(context[row, 226], alone[0][chunks[-1], 76]) < 1e-5
        assert tiny.relative_error(pooled[row], alone[1][chunks[0]]) < 1e-5


def test_the_gradient_of_a_long_prompt_is_the_sum_over_its_chunks(tiny_weights):
    from gm.checkpoint.weights import open_base
    from gm.models.adapters import initial_value

    base, adapters = open_base(tiny_weights), tiny.adapters(text_lora=True)
    cell = sdxl.build_text_encoders(tiny.model(), adapters=adapters)
    shapes = sdxl.expected_shapes(tiny.model(), adapters)[1]
    sdxl.fill([cell], lambda name: initial_value(name, shapes[name], 0) if sdxl.is_lora(name) else base.read(name))
    trained = [p for p in cell.trainable_params() if p.name.endswith("lora_B.weight")]

    def gradient(prompt: str, max_tokens: int, rows: slice) -> list[np.ndarray]:
        """Of the sum of these rows of the context."""
        loss = ms.value_and_grad(lambda *ids: cell(*ids)[0][:, rows].sum(), None, ms.ParameterTuple(trained))
        return [g.asnumpy() for g in loss(*map(Tensor, tokenize([prompt], max_tokens)))[1]]

    first, second = words(75, 1), words(30, 2)
    with in_mode(ms.PYNATIVE_MODE):
        whole = gradient(f"{first} {second}", 150, slice(1, 151))
        parts = [gradient(prompt, 75, slice(1, 76)) for prompt in (first, second)]
    largest = max(np.abs(g).max() for g in whole)
    assert largest > 0
    for one, *others in zip(whole, *parts):
        assert np.abs(one - sum(others)).max() < 1e-5 * largest


def test_the_yaml_says_how_long_a_prompt_may_be():
    config = load_config(str(tiny.TRAINING), [f"{MAX_TOKENS}=150"])
    assert config.data.max_tokens == 150 and load_config(str(tiny.TRAINING)).data.max_tokens == 75
    with pytest.raises(UserError, match=r"max_tokens is 100, but only 75 or 150 or 225 is supported"):
        load_config(str(tiny.TRAINING), [f"{MAX_TOKENS}=100"])
    assert source_of(config, "base", CPU).max_tokens == 150  # sampling with a run's own YAML
    assert source_of(config, "base", CPU, 225).max_tokens == 225
    assert source_of(replace(config, data=None), "base", CPU).max_tokens == 75


def test_the_rows_of_a_batch_are_as_long():
    tokens, _ = TextRows(None, 150)((words(90), "a dog"))
    assert tokens.shape == (2, 154) and (tokens == tokenize([words(90), "a dog"], 150)[0]).all()
