"""All photos of a draft: what may be wrong with them, a card for each, and what is done to all at once."""

import streamlit as st

from gm.config.types import DataConfig
from gm.data.images import count_images
from gm.errors import UserError, shortened
from studio.draft import Draft
from studio.errors import in_plain_words
from studio.photos import editor, intake, texts
from studio.photos.plan import FEWEST, REMARKS, Plan, gathered
from studio.photos.planned import planned
from studio.photos.thumbnails import CELL, thumbnail
from studio.photos.told import tell, tried
from studio.visit import Studio
from studio.words import say

CARD = 158  # pixels: two beside each other on a phone
PAGE = 24  # cards
NAMED = 5  # photos in a remark
BULK = "photos_bulk"  # key of a widget


def show(studio: Studio, draft: Draft) -> None:
    """The photos as they are now."""
    settings = draft.settings()
    found, data = planned(studio, draft, settings)
    if not found:
        return
    _summary(found, data)
    _remarks(found)
    _cards(found)
    _for_all(draft, found)


def _summary(found: list[Plan], data: DataConfig) -> None:
    trained = [plan for plan in found if not plan.excluded and plan.crops]
    shapes = {plan.shape for plan in trained}
    sizes = ", ".join(f"{width} × {height}" for height, width in sorted(shapes))
    st.markdown(say("{n} of {all} photos are trained, as {sizes} pixels", n=len(trained), all=len(found), sizes=sizes or "-"))
    st.caption(
        say(
            "The red frame is what is trained; it is drawn anew each time, from one orange frame to the other. What is dark is masked out"
        )
        if data.crop == "random"
        else say("The red frame is what is trained. What is dark is masked out")
    )
    if len(trained) < FEWEST:
        st.warning(say("There are fewer than {few} photos: with so few only these are learned by heart", few=FEWEST))


def _remarks(found: list[Plan]) -> None:
    said = []
    for kind, names in gathered(found):
        more = f" + {len(names) - NAMED}" if len(names) > NAMED else ""
        words = REMARKS[kind][1]
        said.append(f"* {say(words, names=in_plain_words(', '.join(names[:NAMED])) + more)}")
    if said:
        st.warning("\n".join(said))


def _cards(found: list[Plan]) -> None:
    starts = range(0, len(found), PAGE)
    start = 0
    if len(starts) > 1:
        chosen = st.segmented_control(
            say("Show photos"),
            list(starts),
            format_func=lambda first: f"{first + 1}-{min(first + PAGE, len(found))}",
            default=0,
            key="photos_page",
        )
        start = chosen if chosen in starts else 0
    with st.container(horizontal=True, key="photos_cards"):
        for plan in found[start : start + PAGE]:
            _card(plan)


def _card(plan: Plan) -> None:
    name = plan.path.name
    with st.container(border=True, width=CARD):
        if plan.crops:
            st.image(thumbnail(plan, CELL))
            (height, width), (rows, columns) = plan.size, plan.shape
            st.caption(
                f"{width} × {height} → {columns} × {rows}  \n"
                + say("× {scale}, {share} cut off", scale=f"{plan.scale:.2f}", share=f"{plan.cut:.0%}")
            )
        if plan.caption:
            st.caption(in_plain_words(shortened(plan.caption, 60)))
        marks = []
        if plan.excluded:
            marks.append(say("left out"))
        if plan.masked:
            marks.append(say("masked"))
        if plan.remarks and not plan.excluded:
            marks.append(f"⚠️ {len(plan.remarks)}")
        if marks:
            st.caption(" · ".join(marks))
        st.button(
            in_plain_words(shortened(name, 24)),
            key=f"photos_open_{name}",
            help=say("Caption, mask, leave out, delete"),
            on_click=editor.choose,
            args=(name,),
        )


def _for_all(draft: Draft, found: list[Plan]) -> None:
    with st.expander(say("All photos at once")):
        st.text_input(say("A caption"), key=BULK, placeholder=say("what every photo shows"))
        with st.container(horizontal=True):
            st.button(say("For all photos"), key="photos_bulk_all", on_click=tried, args=(_caption_all, draft, True))
            st.button(say("Where there is none"), key="photos_bulk_some", on_click=tried, args=(_caption_all, draft, False))
        with st.container(horizontal=True):
            with st.popover(say("Remove all captions")):
                st.write(say("The captions of {n} photos are deleted", n=sum(plan.own_caption for plan in found)))
                st.button(say("Yes, remove them"), key="photos_uncaption", on_click=tried, args=(_uncaption_all, draft))
            with st.popover(say("Delete all photos")):
                st.write(say("{n} photos with their captions and masks are deleted here; trainings keep theirs", n=len(found)))
                st.button(say("Yes, delete them"), key="photos_delete_all", on_click=tried, args=(_delete_all, draft))


def _caption_all(draft: Draft, every: bool) -> None:
    text = texts.one_caption(st.session_state.get(BULK) or "")
    if not text:
        raise UserError(say("the caption is empty: type what the photos show"))
    photos = [one for one in count_images(draft.photos) if every or not texts.has_caption(one)]
    for photo in photos:
        intake.write_caption(photo, text)
    tell("success", say("{n} captions written", n=len(photos)))


def _uncaption_all(draft: Draft) -> None:
    for photo in count_images(draft.photos):
        intake.write_caption(photo, "")


def _delete_all(draft: Draft) -> None:
    for photo in count_images(draft.photos):
        intake.remove(photo)
    draft.change(excluded=())
