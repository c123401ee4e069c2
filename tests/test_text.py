"""The tokenizer against CLIP's own ids."""

import json

import pytest

from gm.models.tokenizer import CLIP_PAD, OPEN_CLIP_PAD, ClipTokenizer, clean


def test_golden_ids(shared):
    examples = json.loads((shared / "golden" / "tokens.json").read_text())
    assert len(examples) == 38
    for example in examples:
        assert ClipTokenizer(OPEN_CLIP_PAD)([example["prompt"]])[0].tolist() == example["ids"], example["prompt"]


def test_padding():
    first, second = ClipTokenizer(CLIP_PAD)(["dog"])[0], ClipTokenizer(OPEN_CLIP_PAD)(["dog"])[0]
    assert first.tolist() == [49406, 1929] + [49407] * 75
    assert second.tolist() == [49406, 1929, 49407] + [0] * 74


@pytest.mark.parametrize(
    "given, expected",
    [("  A\tDog \n", "a dog"), ("a &amp;amp; b", "a & b"), ("doâ€™t", "do't"), ("ÇA &lt;3", "ça <3")],
)
def test_cleaning(given, expected):
    assert clean(given) == expected


def test_a_long_prompt_is_cut_with_a_warning_that_shows_the_rest(project_log):
    prompt = " ".join(["dog"] * 75) + " in a red bucket"
    ids = ClipTokenizer(CLIP_PAD)([prompt])[0]
    assert ids[-1] == 49407 and (ids[1:-1] == 1929).all()
    assert "'in a red bucket'" in project_log.text
