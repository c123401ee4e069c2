"""How strong a LoRA is: what the flags mean, block by block and network by network, against the formula; prompts that name LoRA;
and what a person is told of them. Without networks."""

from types import SimpleNamespace

import numpy as np
import pytest

import tiny
from gm.checkpoint.blocks import LISTS, listed_blocks, named_block
from gm.checkpoint.lora_files import open_lora, save_lora
from gm.checkpoint.lora_stack import LoraStack
from gm.checkpoint.lora_strength import Strength, Strengths
from gm.errors import UserError
from gm.options.lora import blocks_of, schedule_of
from gm.options.lora_tags import find_lora, own_lora, tag_of, without_tags
from gm.options.sample import parse_sample
from gm.sampling.lora_words import in_words, rarest_word, tell_of_lora, trained_prompt
from lora_samples import FF, OUT, TE1, TE2, Q, close, make_lora, product, run
from tools import merge_lora

UNET = "model.diffusion_model."


def strength_of(*flags: str) -> Strength:
    return parse_sample(flags).strengths.each(1, "base,lora")[0]


# -- the formula -------------------------------------------------------------------------------------------------------


def test_several_at_strengths_of_their_own_are_the_sum_of_their_products(base, trained, larger):
    """W + sum(s_i alpha_i / rank_i B_i A_i), with another s_i for each network and block."""
    flags = (
        "--lora_scale",
        "0.5,-2",
        "--lora_text_scale",
        "0.25,3",
        "--lora_block_scale",
        "mid=0,OUT05=4,base=0.5;in.4=3,out=0.1",
    )
    files = [open_lora(trained), open_lora(larger)]
    stack = LoraStack(files, parse_sample(flags).strengths.each(2, "w"))
    factors = {Q: (0.5, -6.0), OUT: (2.0, -0.2), FF: (0.0, -2.0), TE1: (0.125, 3.0), TE2: (0.125, 3.0)}
    for module, found in factors.items():
        weight = base.read(f"{module}.weight").astype(np.float32)
        parts = [s * product(file, module) for s, file in zip(found, files) if module in file.modules]
        assert parts and close(stack.merge(module, weight) - weight, sum(parts), 1e-4)
        assert np.array_equal(stack.merge(module, weight), weight) == (module == Q and not any(found))
    both = stack.read(f"{OUT}.lora_B.weight") @ stack.read(f"{OUT}.lora_A.weight")
    assert close(both, 2.0 * product(files[0], OUT) - 0.2 * product(files[1], OUT), 1e-5)


def test_one_number_is_what_it_was(base, trained):
    """To the bit, for the networks alike."""
    file = open_lora(trained)
    for module in (Q, TE1):
        b = file.read(f"{module}.lora_B.weight") * np.float32(0.3 * file.scale(module))
        assert np.array_equal(LoraStack([file], [0.3]).read(f"{module}.lora_B.weight"), b)
        assert np.array_equal(LoraStack([file], [strength_of("--lora_scale", "0.3")]).read(f"{module}.lora_B.weight"), b)


def test_a_dora_lies_as_far_on_its_way_as_its_strength_there_says(base, trained, tmp_path):
    with open_lora(trained) as file:
        matrices = {name: file.read(name) for name in file.names()}
    for module in (Q, TE1):
        matrices[f"{module}.lora_magnitude_vector.weight"] = np.full(len(matrices[f"{module}.lora_B.weight"]), 0.9, np.float32)
    save_lora(tmp_path / "dora.ckpt", matrices, {"lora_alpha": "2.0"})
    file = open_lora(tmp_path / "dora.ckpt")
    stack = LoraStack([file], [Strength(0.5, 0.25, blocks_of("in.4=0.5"))])
    for module in (Q, TE1):
        weight = base.read(f"{module}.weight").astype(np.float32)
        assert np.array_equal(stack.merge(module, weight), file.merged(module, weight, 0.25))


def test_merging_for_good_takes_them_as_well(tiny_weights, base, trained, tmp_path):
    given = ("--weight", f"{tiny_weights},{trained}", "--lora_scale", "1", "--lora_text_scale", "0.5", "--dtype", "float32")
    run(merge_lora, *given, "--lora_block_scale", "mid=0", "--output", tmp_path / "merged.ckpt")
    from gm.checkpoint.weights import open_base

    merged, file = open_base(tmp_path / "merged.ckpt"), open_lora(trained)
    mid = f"{UNET}middle_block.1.transformer_blocks.0.attn1.to_q"
    for module, factor in ((Q, 1.0), (TE1, 0.5), (mid, 0.0)):
        weight = base.read(f"{module}.weight")
        assert close(merged.read(f"{module}.weight"), weight + factor * product(file, module))
    assert merged.file.metadata["merged_lora"] == "trained.ckpt x 1 in the UNet, 0.5 in the text encoders, by block"


# -- blocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word, inside, outside",
    [
        ("in.4", "input_blocks.4.1.proj_in", "input_blocks.5.1.proj_in"),
        ("IN04", "input_blocks.4.1.proj_in", "input_blocks.0.0"),
        ("input_blocks.4", "input_blocks.4.1.proj_in", "output_blocks.4.1.proj_in"),
        ("in", "input_blocks.8.0.in_layers.2", "middle_block.0.in_layers.2"),
        ("M00", "middle_block.2.in_layers.2", "input_blocks.8.1.proj_in"),
        ("mid", "middle_block.0.in_layers.2", "output_blocks.0.1.proj_in"),
        ("mid.1", "middle_block.1.proj_in", "middle_block.2.in_layers.2"),
        ("OUT00", "output_blocks.0.1.proj_in", "output_blocks.1.1.proj_in"),
        ("out", "output_blocks.8.0.in_layers.2", "out.2"),
    ],
)
def test_the_names_of_blocks(word, inside, outside):
    strength = Strength(blocks=(named_block(word, 0.5),))
    assert (strength.of(UNET + inside), strength.of(UNET + outside), strength.of(TE1)) == (0.5, 1.0, 1.0)


def test_the_text_encoders_are_the_base():
    assert [Strength(2.0, 3.0, blocks_of("base=0.5")).of(module) for module in (Q, TE1, TE2)] == [2.0, 1.5, 1.5]


def test_the_smallest_block_counts():
    strength = Strength(blocks=blocks_of("in=0.5,in.4=2"))
    assert [strength.of(f"{UNET}input_blocks.{i}.1.proj_in") for i in (4, 5)] == [2.0, 0.5]


def test_the_lists_of_other_tools():
    """Number i of a list acts on its block and on no other; what the list of 12 leaves out is 0."""
    modules = {"base": TE2}
    for count, words in LISTS.items():
        strength = Strength(blocks=listed_blocks([float(i + 1) for i in range(count)]))
        for i, word in enumerate(words):
            if word:
                module = modules.get(word) or named_block(word, 1.0).beginning + "1.proj_in"
                assert strength.of(module) == i + 1, (count, word)
    twelve = Strength(blocks=listed_blocks([1.0] * 12))
    assert [twelve.of(f"{UNET}{block}.0.in_layers.2") for block in ("input_blocks.1", "output_blocks.8")] == [0.0, 0.0]
    assert Strength(blocks=listed_blocks([0.0] * 23)).of(TE1) == 1.0  # as in sd-scripts
    assert len(LISTS[12]) == 12 and len(LISTS[20]) == 20 and len(LISTS[23]) == 23


# -- schedules ---------------------------------------------------------------------------------------------------------


def test_a_point_counts_from_its_step_on():
    strength = Strength(0.5, 0.25, schedule=schedule_of("0:0, 0.3:1 ,0.8:-0.5"))
    assert [strength.at(i / 10).of(Q) for i in range(10)] == [0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, -0.25, -0.25]
    assert {strength.at(i / 10).of(TE1) for i in range(10)} == {0.25}
    assert Strength(0.7).at(0.5) == Strength(0.7)


def test_a_dora_has_no_schedule(tiny_weights, trained, tmp_path):
    from gm.encoding.source import Source
    from gm.runtime import CPU

    with open_lora(trained) as file:
        matrices = {name: file.read(name) for name in file.names()}
    save_lora(tmp_path / "dora.ckpt", {**matrices, f"{Q}.lora_magnitude_vector.weight": np.ones(64, np.float32)}, {})
    strengths = Strengths(schedules=(schedule_of("0:0,0.5:1"),))
    with pytest.raises(UserError, match="dora.ckpt is a DoRA, which is merged once"):
        Source(tiny.model(), f"{tiny_weights},{tmp_path / 'dora.ckpt'}", CPU, strengths).open()
    weights = Source(tiny.model(), f"{tiny_weights},{trained}", CPU, strengths).open()
    assert set(weights.adapters) == set(weights.files[0].modules)  # they stay apart, whatever the YAML says


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--lora_block_scale", "1,2,3"), "a list of 3 numbers is none of SDXL's blocks: give 12 or 20"),
        (("--lora_block_scale", ",".join("1" * 17)), "a list of 17 numbers"),
        (("--lora_block_scale", "in.9=1"), "'in.9' is no block: give base, in.0 to in.8"),
        (("--lora_block_scale", "mid.3=1"), "'mid.3' is no block"),
        (("--lora_block_scale", "m=1"), "'m' is no block"),
        (("--lora_block_scale", "mid=0,M00=1"), "M00 is given twice"),
        (("--lora_block_scale", "mid=0,1"), "'1' is no NAME=FACTOR"),
        (("--lora_block_scale", "mid=x"), "'x' is not a number"),
        (("--lora_block_scale", "mid=1e9"), "too large: at most 1000"),
        (("--lora_block_scale", ";"), "it is empty"),
        (("--lora_schedule", "0.5"), "'0.5' is no SHARE:FACTOR such as 0.3:1"),
        (("--lora_schedule", "0.1:1"), "begin at 0 and rise"),
        (("--lora_schedule", "0:1,0.5:0,0.5:1"), "begin at 0 and rise"),
        (("--lora_schedule", "0:1,1:0"), "begin at 0 and rise, below 1"),
        (("--lora_schedule", "0:nan"), "'nan' is not a finite number"),
        (("--lora_schedule", "0:2000"), "too large: at most 1000"),
        (("--lora_text_scale", "x"), "'x' is not a number"),
    ],
)
def test_flags_that_cannot_be_read(flags, words):
    with pytest.raises(UserError) as told:
        parse_sample(flags)
    assert words in str(told.value)


@pytest.mark.parametrize(
    "count, flags, words",
    [
        (2, ("--lora_text_scale", "1"), "--lora_text_scale gives 1 numbers, but --weight w has 2 LoRA"),
        (0, ("--lora_text_scale", "1"), "--lora_text_scale gives 1 numbers, but --weight w has 0 LoRA"),
        (3, ("--lora_block_scale", "mid=0;mid=0"), "--lora_block_scale is for 2 LoRA, but --weight w has 3"),
        (0, ("--lora_block_scale", "mid=0"), "--lora_block_scale is for 1 LoRA, but --weight w has 0"),
        (0, ("--lora_schedule", "0:0"), "--lora_schedule is for 1 LoRA, but --weight w has 0"),
    ],
)
def test_flags_for_other_numbers_of_lora(count, flags, words):
    with pytest.raises(UserError) as told:
        parse_sample(flags).strengths.each(count, "w")
    assert words in str(told.value)


@pytest.mark.parametrize(
    "flags, modules, words",
    [
        (("--lora_block_scale", "in.1=0"), [[Q], [TE1]], "names in.1, where no LoRA of --weight w has a module"),
        (("--lora_block_scale", "base=0;"), [[Q], [TE1]], "names base, where no LoRA"),
        (("--lora_schedule", "0:0"), [[TE1], [TE2]], "acts on the UNet, where a LoRA"),
        (("--lora_schedule", "0:0;0:1"), [[Q], [TE2]], "acts on the UNet, where a LoRA"),
        (("--lora_block_scale", "in.4=0,base=1"), [[Q], [TE1]], None),  # each in one of them
        (("--lora_block_scale", ",".join("1" * 20)), [[Q], [TE1]], None),
        (("--lora_schedule", "0:0"), [[Q], [TE2]], None),
        (("--lora_schedule", "0:0;"), [[Q], [TE2]], None),
    ],
)
def test_flags_that_meet_nothing(flags, modules, words):
    strengths = parse_sample(flags).strengths
    if words is None:
        return strengths.check(modules, "w")
    with pytest.raises(UserError) as told:
        strengths.check(modules, "w")
    assert words in str(told.value)


def test_strengths_there_and_back():
    flags = ("--lora_scale", "1,0.5", "--lora_block_scale", "mid=0;", "--lora_schedule", "0:0,0.5:1")
    each = parse_sample(flags).strengths.each(2, "w")
    assert Strengths.of(each).each(2, "w") == each and Strengths.of([]).each(0, "w") == []
    assert [str(one) for one in each] == ["1, by block, scheduled", "0.5, scheduled"]


# -- prompts that name LoRA ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt, left, name, strength",
    [
        ("a <lora:dog>dog", "a dog", "dog", Strength()),
        ("a dog <lora:dog:0.5>", "a dog ", "dog", Strength(0.5, 0.5)),
        ("<lora:dog:0.5:0.8>", "", "dog", Strength(unet=0.8, text=0.5)),
        ("<lora:dog:unet=0.8>", "", "dog", Strength(unet=0.8, text=1.0)),
        ("<lora:dog:0.2:te=0.5>", "", "dog", Strength(0.5, 0.5)),
        ("<lyco:dog:0.2:0.4:te=1>", "", "dog", Strength(unet=0.4, text=1.0)),
        ("<lora:dog:1:lbw=mid=0>", "", "dog", Strength(blocks=blocks_of("mid=0"))),
        ("a < b > c", "a < b > c", None, None),
    ],
)
def test_tags_as_a1111_reads_them(prompt, left, name, strength):
    assert without_tags(prompt) == (left, [(name, strength)] if name else [])


def test_tags_are_written_as_they_are_read():
    for strength in (Strength(), Strength(0.5, 0.5), Strength(unet=0.8, text=0.5)):
        assert without_tags(tag_of("dog", strength)) == ("", [("dog", strength)])


@pytest.mark.parametrize(
    "tag, words",
    [
        ("<hypernet:dog:1>", "is no LoRA"),
        ("<lora:dog:x>", "'x' is not a number"),
        ("<lora:dog:1:1:64>", "more than a name and two strengths"),
        ("<lora:dog:1:start=3>", "has start=, which is not supported"),
        ("<lora:te=1>", "has no name"),
        ("<lora:dog:1:lbw=MIDD>", "'MIDD' is not a number"),
        ("<lora:dog:2000>", "too large"),
    ],
)
def test_tags_that_cannot_be_followed(tag, words):
    with pytest.raises(ValueError) as told:
        without_tags(tag)
    assert words in str(told.value)


def test_files_are_found_by_their_names(base, tmp_path):
    for path in ("a/dog.ckpt", "a/dog.safetensors", "a/cat.v1.ckpt", "b/cat.v1.ckpt", "b/note.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    folders = [str(tmp_path)]
    assert find_lora("dog", folders) == str(tmp_path / "a/dog.ckpt")  # of two formats the native one
    assert find_lora("b/cat.v1", folders) == str(tmp_path / "b/cat.v1.ckpt")
    assert find_lora("cat.v1", [str(tmp_path / "a"), str(tmp_path / "a")]) == str(tmp_path / "a/cat.v1.ckpt")
    for name, words in (
        ("cat.v1", "may be .* or .*: write more of the path"),
        ("dogs", "did you mean dog?"),
        ("note", "names no"),
    ):
        with pytest.raises(UserError, match=words):
            find_lora(name, folders)


def test_a_prompts_own_lora(base, tmp_path, monkeypatch, project_log):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    make_lora(tmp_path / "runs" / "dog.ckpt", base, lambda module: 1 * (module == Q))
    (tmp_path / "cat.ckpt").touch()

    def options(prompt, style="a1111", **more):
        given = {"prompt": prompt, "prompt_style": style, "weight": "base.ckpt", "lora_dir": None, **more}
        return SimpleNamespace(**given)

    assert own_lora(options("a dog <lora:dog:0.5>")) == ("a dog ", (("runs/dog.ckpt", Strength(0.5, 0.5)),))
    assert own_lora(options("<lora:cat>", weight=f"base.ckpt,{tmp_path}/cat.ckpt"))[1][0][0] == str(tmp_path / "cat.ckpt")
    assert own_lora(options("a dog <lora:dog>", "plain")) == ("a dog <lora:dog>", ())
    assert "'<lora:dog>' in the prompt is read as words: --prompt_style a1111 reads it as a LoRA" in project_log.text
    for wrong, words in (
        (options("<lora:cat>"), "<lora:cat> names no file of runs"),
        (options("<lora:dog:x>"), "cannot be read: in '<lora:dog:x>' 'x' is not a number"),
        (options("a dog", "plain", lora_dir="x"), "--lora_dir x is for the LoRA that prompts of --prompt_style a1111 name"),
    ):
        with pytest.raises(UserError) as told:
            own_lora(wrong)
        assert words in str(told.value)


# -- what is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metadata, prompt",
    [
        ({"instance_prompt": "a sks dog", "modelspec.trigger_phrase": "other"}, "a sks dog"),
        ({"modelspec.trigger_phrase": "a sks dog"}, "a sks dog"),
        ({"ss_tag_frequency": '{"10_sks dog": {"sks dog": 5}}'}, "sks dog"),
        ({"ss_tag_frequency": '{"10_sks dog": {"sks dog": 5, "grass": 2}}'}, None),
        ({"ss_tag_frequency": "[1"}, None),
        ({"ss_tag_frequency": "[1]"}, None),
        ({}, None),
    ],
)
def test_the_prompt_that_a_file_says(metadata, prompt):
    assert trained_prompt(metadata) == prompt


@pytest.mark.parametrize(
    "prompt, word",
    [
        ("A photo of a sks dog", "sks"),
        ("a photo of an ohwx man", "ohwx"),
        ("a watercolor painting in TOK style", "tok"),
        ("photo of zwx, a cat", "zwx"),
        ("?", None),
    ],
)
def test_the_word_that_calls(prompt, word):
    assert rarest_word(prompt) == word


def test_a_line_for_each_lora_and_a_warning_for_a_prompt_without_the_word(trained, larger, project_log):
    stack = LoraStack([open_lora(trained), open_lora(larger)], [Strength(1.0, 0.5), 0.8])
    assert in_words(stack.files[0], stack.strengths[0]) == (
        f"LoRA {trained}: rank 4, strength 1 in the UNet, 0.5 in the text encoders, trained on 'a sks dog'"
    )
    tell_of_lora(stack, ["a Sks dog", "(sks:1.2) in snow"])
    assert f"LoRA {larger}: rank 2 to 3, strength 0.8" in project_log.text and " lack" not in project_log.text
    tell_of_lora(LoraStack(stack.files[:1], [0.0]), ["a dog"])  # one that does nothing
    assert " lack" not in project_log.text
    tell_of_lora(stack, ["a sks dog", "a dog", "a cat"])
    assert f"the prompt 'a dog' and 1 more lack 'sks', but the LoRA {trained} was trained on 'a sks dog'" in project_log.text
