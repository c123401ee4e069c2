"""The part as it is drawn: prompt and buttons first, then progress and pictures, the settings below them, then the gallery."""

from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import streamlit as st

from gm.checkpoint.embeddings import open_embeddings
from gm.config.types import Config, DataConfig
from gm.errors import UserError, shortened
from gm.models.prompt_chunks import tokens_in
from gm.options.sample import SampleOptions
from studio.choice import config_of, models_of, require_weights, start_of
from studio.errors import explained, in_plain_words, sentence_of
from studio.files import picture, texts_of
from studio.models import Model
from studio.sampling import axes, given, live, loras, sizes
from studio.sampling.gallery import LARGEST_THUMBNAIL, SHOWN, Gallery, described, download, speaking_name
from studio.sampling.making import begin
from studio.sampling.picture_text import settings_of
from studio.sampling.settings import KEPT, KEY, Settings, begin_with, file_of, stored_model
from studio.sampling.training import running_training
from studio.sampling.workshop import workshop
from studio.visit import Studio
from studio.words import say

TASK = "sampling"  # what the workshop calls this part's pictures
SAID = "sampling.said"  # of the session: what a callback had to say


def render(studio: Studio) -> None:
    """The part as it is now."""
    models = models_of(studio)
    settings = _settings(studio, models)
    model = models[settings.model]
    start = start_of(model, studio.argv)
    _take_over(studio, settings, models)
    sample, compare, tokens = _prompt(settings)
    results = st.container()
    with explained(st):
        _model(studio, settings, models)
        config = config_of(start)
        sizes.show_main(settings)
        with st.expander(say("LoRA"), expanded=bool(settings.values["lora"])):
            loras.show(studio, settings)
        with st.expander(_begun(settings), expanded=settings.values["task"] != "txt2img"), explained(st):
            given.show_start(studio, settings)
        with st.expander(say("Size and sampler")):
            sizes.show_size_and_sampler(settings, start, config.model.unet.downsampling)
        sizes.show_grid(settings)
        sizes.show_further(settings, begin_with(start))
        with st.expander(say("Settings from a picture")):
            _dropped(studio, settings, models)
        with results:
            if sample or compare:
                with explained(st):
                    require_weights(model)
                    begin(studio, settings, start, TASK, beside_base=compare)
            _say()
            _show_task(studio, settings, models)
    settings.save()
    with explained(st):
        _show_gallery(studio, settings, models)
    with explained(tokens):
        _count(tokens, settings, start)


def _settings(studio: Studio, models: Mapping[str, Model]) -> Settings:
    """Of this visit: from the session, or the file of last time."""
    kept: Optional[Settings] = st.session_state.get(KEPT)
    path = file_of(studio)
    if kept is not None and kept.path == path and kept.model in models:
        return kept
    name = stored_model(path)
    name = name if name in models else next(iter(models))
    settings = Settings(path, name, begin_with(start_of(models[name], studio.argv)), [])
    settings.load()
    st.session_state[KEPT] = settings
    return settings


def _take_over(studio: Studio, settings: Settings, models: Mapping[str, Model]) -> None:
    """What another part of the page sends: LoRA, a prompt, a model."""
    model = st.session_state.pop("sampling_model", None)
    paths, prompt = st.session_state.pop("sampling_lora", None), st.session_state.pop("sampling_prompt", None)
    if model in models and model != settings.model:
        _change_model(studio, settings, models, model)
    with explained(st):
        if paths:
            settings.change(lora=[])
            for path in paths:
                loras.add(studio, settings, str(path))
        if prompt:
            settings.change(prompt=prompt)


def _prompt(settings: Settings) -> tuple[bool, bool, Any]:
    """The fields that come first: whether pictures are wanted, whether beside the base model's; the place of the token count."""
    values = settings.values
    values["prompt"] = st.text_area(say("Prompt"), key=settings.keyed("prompt"), height=90)
    tokens = st.empty()
    values["negative_prompt"] = st.text_input(
        say("Negative prompt"),
        key=settings.keyed("negative_prompt"),
        placeholder=say("what should not be seen"),
    )
    left, middle, right = st.columns([2, 2, 3], vertical_alignment="bottom")
    sample = left.button(say("Sample"), type="primary", width="stretch", key=f"{KEY}sample")
    compare = middle.button(
        say("With and without LoRA"),
        width="stretch",
        key=f"{KEY}compare",
        disabled=not loras.active(settings),
        help=say("Each seed twice: by the base model alone, and with the LoRA that are on"),
    )
    if settings.prompts:
        right.selectbox(
            say("Earlier prompts"),
            settings.prompts,
            index=None,
            format_func=lambda one: shortened(one, 120),
            key=f"{KEY}history",
            placeholder=say("Earlier prompts"),
            label_visibility="collapsed",
            on_change=lambda: settings.change(prompt=st.session_state[f"{KEY}history"] or values["prompt"]),
        )
    return sample, compare, tokens


def _model(studio: Studio, settings: Settings, models: Mapping[str, Model]) -> None:
    """The choice of the model; a sentence where its weights are not there, and a hint while something trains."""
    if len(models) > 1:
        key = f"{KEY}model"
        if key not in st.session_state:
            st.session_state[key] = settings.model
        st.selectbox(
            say("Model"),
            list(models),
            key=key,
            on_change=lambda: _change_model(studio, settings, models, st.session_state[key]),
        )
    with explained(st):
        require_weights(models[settings.model])
    shop = workshop()
    name = running_training(studio.runs)
    if name:
        st.info(say("{name} is being trained on this machine: pictures take longer meanwhile", name=in_plain_words(name)))
        if shop.model.is_loaded and shop.model.is_free:
            st.button(
                say("Give the model's memory back"),
                key=f"{KEY}close",
                on_click=shop.model.close,
                help=say("The next picture loads the model again"),
            )


def _change_model(studio: Studio, settings: Settings, models: Mapping[str, Model], name: str) -> None:
    settings.change_model(name, begin_with(start_of(models[name], studio.argv)))


def _begun(settings: Settings) -> str:
    return say("What to make: {task}", task=say(given.CALLED.get(settings.values["task"], given.CALLED["txt2img"])))


def _say() -> None:
    """What callbacks had to say."""
    for kind, words in st.session_state.pop(SAID, []):
        getattr(st, kind)(words)


def _show_task(studio: Studio, settings: Settings, models: Mapping[str, Model]) -> None:
    task = workshop().task(studio.visit, TASK)
    if task is None:
        if not Gallery(studio.folder / "gallery.json").paths():
            st.caption(say("Say what the pictures show and press **Sample**. The first click also loads the model."))
        return

    def details(path: Path, key: str) -> None:
        _details(studio, settings, models, path, key)

    live.show(task, task.labels, task.columns, details)


# -- settings from a picture ---------------------------------------------------------------------------------------------


def _dropped(studio: Studio, settings: Settings, models: Mapping[str, Model]) -> None:
    """A PNG whose settings are taken over."""
    st.caption(say("A PNG of this suite or of A1111: its prompt, seed and settings are taken over."))
    file = st.file_uploader(say("A picture with settings"), ["png"], key=f"{KEY}dropped")
    if file is None or st.session_state.get("sampling.dropped") == file.file_id:
        return
    st.session_state["sampling.dropped"] = file.file_id
    with explained(st):
        if file.size > given.LARGEST_UPLOAD:
            raise UserError(say("{name} is larger than 100 MB: give a smaller picture", name=file.name))
        path = studio.folder / "given" / "dropped.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
        try:
            _again(studio, settings, models, path, file.name)
        finally:
            path.unlink(missing_ok=True)
        st.rerun()


def _again(studio: Studio, settings: Settings, models: Mapping[str, Model], path: Path, called: Optional[str] = None) -> None:
    """Set what the picture was made with; UserError where it does not say it."""
    values, model, left = settings_of(studio, path, models, called)
    if model and model != settings.model:
        _change_model(studio, settings, models, model)
    settings.change(**values)
    said = [("success", say("the settings are those of {picture}", picture=in_plain_words(called or path.name)))]
    if left:
        said.append(("warning", say("not taken over: {what}", what=in_plain_words(", ".join(left)))))
    st.session_state[SAID] = said


# -- the gallery -----------------------------------------------------------------------------------------------------------


def _show_gallery(studio: Studio, settings: Settings, models: Mapping[str, Model]) -> None:
    """This visit's pictures that were made before."""
    task = workshop().task(studio.visit, TASK)
    now = {path for path in task.paths if path} if task else set()
    gallery = Gallery(studio.folder / "gallery.json")
    before = [path for path in gallery.paths() if path not in now]
    if not before:
        return
    st.subheader(say("Your pictures"))
    count = st.session_state.get("sampling.shown", SHOWN)
    _grid(studio, settings, models, before[:count])
    if len(before) > count:
        st.button(say("More"), key=f"{KEY}more", on_click=lambda: st.session_state.update({"sampling.shown": count + SHOWN}))


def _grid(studio: Studio, settings: Settings, models: Mapping[str, Model], paths: Sequence[Path]) -> None:
    for first in range(0, len(paths), live.WIDE):
        for column, path in zip(st.columns(live.WIDE), paths[first : first + live.WIDE]):
            content, texts = picture(path, LARGEST_THUMBNAIL), texts_of(path)
            if content is None:
                continue
            column.image(content, width="stretch")
            column.caption(in_plain_words(f"{shortened(texts.get('prompt', ''), 80)} · {described(texts)}"))
            with column:
                _details(studio, settings, models, path, f"old:{path}")


def _details(studio: Studio, settings: Settings, models: Mapping[str, Model], path: Path, key: str) -> None:
    """What can be done with a picture."""
    gallery = Gallery(studio.folder / "gallery.json")

    def again() -> None:
        try:
            _again(studio, settings, models, path)
        except UserError as error:
            st.session_state[SAID] = [("error", sentence_of(error))]

    def begin_with_it(task: str) -> None:
        try:
            given.take(studio, settings, given.keep(studio, path.read_bytes(), path.name), task)
            where = _begun(settings)
            st.session_state[SAID] = [("success", say("it is below, under **{where}**", where=in_plain_words(where)))]
            st.session_state[opened] = False
        except (UserError, OSError) as error:
            st.session_state[SAID] = [("error", sentence_of(error))]

    opened = f"sampling.open:{key}"
    if not st.session_state.get(opened):
        st.button(say("Use it ..."), key=f"{KEY}{key}:open", on_click=lambda: st.session_state.update({opened: True}))
        return
    texts = texts_of(path)
    seed = texts.get("seed", "")
    st.button(say("Again with these settings"), key=f"{KEY}{key}:again", on_click=again)
    if seed.isdigit():
        st.button(say("Again with this seed"), key=f"{KEY}{key}:seed", on_click=lambda: settings.change(seed=int(seed)))
    for task, label in (("img2img", say("Begin with it")), ("inpaint", say("Paint into it"))):
        st.button(label, key=f"{KEY}{key}:{task}", on_click=begin_with_it, args=(task,))
    download(st, say("Download"), path, speaking_name(texts), f"{KEY}{key}:png")
    if key.startswith("old:"):  # those of now are below their prompt until the next click
        st.button(
            say("Take it off the list"),
            key=f"{KEY}{key}:remove",
            on_click=gallery.remove,
            args=(path,),
            help=say("The file stays"),
        )
    st.button(say("Close"), key=f"{KEY}{key}:close", on_click=lambda: st.session_state.update({opened: False}))


# -- tokens ----------------------------------------------------------------------------------------------------------------


def _count(place: Any, settings: Settings, start: SampleOptions) -> None:
    """How many tokens the prompts have, and what of them is cut off, before anything is made."""
    values, config = settings.values, config_of(start)
    words = _tokens(values["prompt"] or "", values, config, start)
    if values["negative_prompt"]:
        words += " · " + say("negative: {words}", words=_tokens(values["negative_prompt"], values, config, start))
    grid = say("a grid is set below") if axes.is_asked(settings) else ""
    place.caption(" · ".join(filter(None, (words, grid))))


def _tokens(prompt: str, values: Mapping[str, Any], config: Config, start: SampleOptions) -> str:
    most = values["max_tokens"] or (config.data or DataConfig()).max_tokens
    known = {word.name: range(word.count) for word in open_embeddings(start.embedding, config.model)}
    try:
        count, rest = tokens_in(" ".join(prompt.split()), values["prompt_style"] or "plain", int(most), known)
    except ValueError as error:
        return in_plain_words(str(error))
    if rest:
        cut = in_plain_words(shortened(rest, 200))
        return say("{count} tokens, **{most} is the most: cut off is** {rest}", count=count, most=most, rest=cut)
    return say("{count} tokens", count=count)
