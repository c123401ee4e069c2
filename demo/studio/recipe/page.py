"""The part "recipe": what is trained, from what, how; the YAML and the command that come of it; and the start."""

from typing import Any, Optional

import streamlit as st

from gm.config.types import Config
from gm.errors import UserError
from gm.options.prompts import read_prompt_lines
from gm.texts import prompt_text
from studio.draft import Draft, Settings
from studio.errors import explained, in_plain_words, sentence_of
from studio.recipe import arithmetic, command
from studio.recipe.controls import Control, draw, forget_mistakes
from studio.recipe.importing import show_import
from studio.recipe.offered import Prepared
from studio.recipe.taking_over import FILE as IMPORTED
from studio.recipe.taking_over import report_of
from studio.recipe.topics import TOPICS, Topic
from studio.recipe.topics_subject import MAIN
from studio.recipe.tree import found, has_masks, used_photos
from studio.shell import go_to
from studio.visit import Studio
from studio.words import later, say

SENTENCE = "recipe_sentence"  # in the session: why the last start did not work
TOPIC = "recipe_shown_topic"  # in the session: the topic that was shown last
PRESETS = {  # a preset, "" for none -> its title, what it is for
    "": (later("The model's own"), later("A subject from 3 to 5 photos, with the plainest settings.")),
    "pet": (
        later("Person or pet"),
        later("5 to 20 photos in their own shapes; captions where there are any; LoRA in all linear layers."),
    ),
    "style": (
        later("Style"),
        later("20 to 100 pictures with captions that say what is in them, not how it is drawn; without class images."),
    ),
    "product": (
        later("Product"),
        later("An object that must come out exactly, from photos with masks; nothing is enlarged."),
    ),
}


def show(studio: Studio) -> None:
    """The part as it is now."""
    draft = studio.draft
    settings = draft.settings()
    _show_models(studio, draft, settings)
    _show_presets(draft, settings)
    show_import(studio, draft)
    with explained(st):
        tree = command.whole_tree(studio, settings)
        total = found(tree, "data.total_step")
        prepared = Prepared(studio, draft, settings, tree, total if isinstance(total, int) else 1)
        _show_prompts(prepared)
        _show_numbers(prepared)
        config = _checked(prepared)
        _show_start(prepared, config)
        _show_result(prepared, config)


def _show_models(studio: Studio, draft: Draft, settings: Settings) -> None:
    names = [model.name for model in command.trainable(studio)]
    chosen, where = command.model_of(studio, settings), command.device_of(settings)
    left, right = st.columns(2)
    st.session_state["recipe_model"] = chosen.name
    left.selectbox(say("Model to train"), names, key="recipe_model", on_change=_keep, args=(draft, "model", "recipe_model"))
    st.session_state["recipe_device"] = where
    right.selectbox(
        say("Device"), command.DEVICES, key="recipe_device", on_change=_keep, args=(draft, "device", "recipe_device")
    )
    if not chosen.is_there:
        places = ", ".join(chosen.weights or [chosen.weight])
        st.warning(
            in_plain_words(
                say(
                    "The weights of {model} are in none of these places: {places}. Put them there before you start.",
                    model=chosen.name,
                    places=places,
                )
            )
        )


def _show_presets(draft: Draft, settings: Settings) -> None:
    is_here = bool(settings.recipe) or (draft.folder / IMPORTED).is_file()
    options = list(PRESETS) + (["imported"] if is_here else [])
    st.session_state["recipe_preset"] = (
        "imported" if settings.recipe else settings.preset if settings.preset in PRESETS else ""
    )
    st.radio(
        say("What it is for"),
        options,
        format_func=lambda one: say("The imported recipe") if one == "imported" else say(PRESETS[one][0]),
        captions=[
            say("As it was read, over the model's own.") if one == "imported" else say(PRESETS[one][1]) for one in options
        ],
        key="recipe_preset",
        on_change=_choose_preset,
        args=(draft,),
    )
    if settings.preset == "style" and not settings.recipe and command.uses_class(settings):
        st.info(say("A style is trained without class images: leave their prompt empty."))


def _choose_preset(draft: Draft) -> None:
    chosen = st.session_state["recipe_preset"]
    forget_mistakes()
    if chosen == "imported":
        draft.change(preset="", recipe=IMPORTED)
    else:
        draft.change(preset=chosen, recipe="")


def _keep(draft: Draft, field: str, key: str) -> None:
    draft.change(**{field: st.session_state[key]})


def _show_prompts(prepared: Prepared) -> None:
    draft, settings = prepared.draft, prepared.settings
    photos = len(used_photos(draft, settings))
    if photos:
        st.caption(say("{n} photos are trained on.", n=photos))
    else:
        st.button(say("Add photos first"), on_click=go_to, args=("photos",), key="recipe_to_photos")
    left, right = st.columns(2)
    with left:
        text = say(
            "What the photos show, with a rare word for the subject, e.g. a photo of a sks dog. Captions of photos go first."
        )
        _draw_prompt("instance_prompt", say("Prompt of the photos"), text, draft, settings)
    with right:
        text = say(
            "What is kept as it was, e.g. a photo of a dog: images of it are sampled and trained beside. Empty: without them."
        )
        _draw_prompt("class_prompt", say("Prompt of the class"), text, draft, settings)
        if settings.class_prompt.strip():
            prepared.draw_flag("num_class_images")
    st.session_state["recipe_prompts"] = command.prompts_of(draft)
    st.text_area(
        say("Prompts of the pictures on the way"),
        key="recipe_prompts",
        height=100,
        placeholder=settings.instance_prompt or say("the prompt of the photos"),
        help=say(
            "One a line; empty: the prompt of the photos. Behind a prompt may stand --w and --h for the size, --d for the seed, --s for "
            "the steps, --l for the guidance and --n for the negative prompt."
        ),
        on_change=lambda: command.keep_prompts(draft, st.session_state["recipe_prompts"]),
    )
    text = say("Of the training and of its folder; empty: made from the prompt.")
    _draw_text("name", say("Name"), text, draft, settings)


def _draw_prompt(field: str, label: str, text: str, draft: Draft, settings: Settings) -> None:
    control = Control(field, label, text, str, getattr(settings, field), optional=True, read=prompt_text)
    draw(control, lambda given: draft.change(**{field: given or ""}) and None)


def _draw_text(field: str, label: str, text: str, draft: Draft, settings: Settings) -> None:
    control = Control(field, label, text, str, getattr(settings, field), optional=True, read=_name_text)
    draw(control, lambda given: draft.change(**{field: given or ""}) and None)


def _name_text(text: str) -> str:
    if len(text) > 60:
        raise ValueError(say("it has {n} characters: give at most {most}", n=len(text), most=60))
    return text


def _show_numbers(prepared: Prepared) -> None:
    places: list[Any] = [*st.columns(3), *st.columns(3)]
    for place, field in zip(places, MAIN):
        with place:
            prepared.draw_field(field)
    if "recipe_topic" not in st.session_state:  # the part was not shown
        st.session_state["recipe_topic"] = st.session_state.get(TOPIC)
    st.pills(
        say("All other settings, by topic"), list(TOPICS), format_func=lambda one: say(TOPICS[one].title), key="recipe_topic"
    )
    chosen = st.session_state[TOPIC] = st.session_state["recipe_topic"]
    if chosen:
        with st.container(border=True):
            _show_topic(prepared, TOPICS[chosen])
    changed = len(prepared.settings.overrides) + len(prepared.settings.flags)
    if changed:
        st.button(
            say("Take back my {n} changes", n=changed),
            key="recipe_reset",
            on_click=_reset,
            args=(prepared.draft,),
            help=say("All settings are again those of the chosen recipe; prompts and photos stay."),
        )


def _show_topic(prepared: Prepared, topic: Topic) -> None:
    for field in topic.fields:
        prepared.draw_field(field)
    for flag in topic.flags:
        prepared.draw_flag(flag)


def _reset(draft: Draft) -> None:
    forget_mistakes()
    report = report_of(draft) if draft.settings().recipe else None
    draft.change(flags=dict(report.flags) if report else {}, overrides={})


def _checked(prepared: Prepared) -> Optional[Config]:
    """The configuration, or the sentence about what does not go together."""
    try:
        config = command.config_of(prepared.studio, prepared.settings)
        _check_prompts(prepared, config)
    except UserError as error:
        st.error(sentence_of(error))
        return None
    assert config.data is not None  # load_config demands it for training
    if config.data.masks is not None and not has_masks(prepared.draft, prepared.settings):
        st.warning(
            say("Masks count in this recipe, but no photo has one: paint some in the part Photos, or let masks not count.")
        )
    st.caption(in_plain_words(" ".join(arithmetic.sentences(prepared, config))))
    return config


def _check_prompts(prepared: Prepared, config: Config) -> None:
    """UserError for a prompt of the pictures on the way that cannot be drawn."""
    path = prepared.draft.folder / command.PROMPTS
    if command.prompts_of(prepared.draft):
        label = say("Prompts of the pictures on the way")
        try:
            read_prompt_lines(str(path), label, config.model.unet.downsampling)
        except UserError as error:
            raise UserError(str(error).replace(f"{label} {path}", label)) from None


def _show_start(prepared: Prepared, config: Optional[Config]) -> None:
    st.button(
        say("Start training"),
        type="primary",
        key="recipe_start",
        disabled=config is None,
        on_click=_start,
        args=(prepared.studio, prepared.draft),
        help=say("It goes into the queue, and trains on when this page is closed."),
    )
    sentence = st.session_state.pop(SENTENCE, None)
    if sentence:
        st.error(sentence)


def _start(studio: Studio, draft: Draft) -> None:
    from studio.recipe.starting import start  # what it checks with is imported when somebody starts

    try:
        job = start(studio, draft)
    except Exception as error:
        st.session_state[SENTENCE] = sentence_of(error)
        return
    st.query_params["job"] = job.folder.name
    go_to("run")


def _show_result(prepared: Prepared, config: Optional[Config]) -> None:
    studio, settings = prepared.studio, prepared.settings
    folder = studio.runs / command.job_name(settings)
    with st.expander(say("The YAML and the command"), expanded=True):
        st.code(command.yaml_text(studio, settings, folder), language="yaml", wrap_lines=True)
        if config is None:
            return
        st.code(command.shell_text(command.words_of(studio, settings, folder)), language="bash", wrap_lines=True)
        st.download_button(
            say("Download the whole YAML"),
            config.raw,
            f"{command.job_name(settings)}.yaml",
            mime="application/yaml",
            key="recipe_download",
            on_click="ignore",
            help=say("With all that it inherits, so that it is complete in any folder."),
        )
