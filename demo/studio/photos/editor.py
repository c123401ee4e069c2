"""One photo of a draft: its caption, its mask by the brush, whether it is left out, and deleting it."""

import hashlib
from pathlib import Path
from typing import Optional, Sequence

import numpy as np
import streamlit as st
from PIL import Image

from gm.data.images import image_size
from gm.errors import UserError
from studio.brush import brush, forget
from studio.draft import Draft
from studio.errors import explained, in_plain_words
from studio.photos import intake, measures, texts
from studio.photos.plan import Plan
from studio.photos.planned import planned
from studio.photos.thumbnails import LARGE, thumbnail
from studio.photos.told import tried
from studio.visit import Studio
from studio.words import say

CHOSEN, BEGUN = "photos_chosen", "photos_begun"  # of the session, no widgets


def chosen() -> str:
    """The name of the photo that is edited, or nothing."""
    return st.session_state.get(CHOSEN, "")


def choose(name: str) -> None:
    """Edit this photo from the next run on; all of them with an empty name."""
    st.session_state[CHOSEN] = name
    st.session_state.pop(BEGUN, None)


def show(studio: Studio, draft: Draft, name: str, names: Sequence[str]) -> None:
    """The photo as it is now."""
    place = names.index(name)
    with st.container(horizontal=True):
        st.button(say("All photos"), key="photos_back", on_click=choose, args=("",), type="primary")
        before, after = names[place - 1], names[(place + 1) % len(names)]
        st.button(say("Previous"), key="photos_before", on_click=choose, args=(before,), disabled=len(names) < 2)
        st.button(say("Next"), key="photos_after", on_click=choose, args=(after,), disabled=len(names) < 2)
    st.subheader(f"{in_plain_words(name)} ({place + 1}/{len(names)})", anchor=False)
    left, right = st.columns(2)
    photo = draft.photos / name
    with right, explained(right):
        _mask(photo)
    with left, explained(left):
        settings = draft.settings()
        found, _ = planned(studio, draft, settings)
        plan = next(plan for plan in found if plan.path.name == name)
        _facts(plan)
        _caption(photo, settings.instance_prompt, plan)
        st.toggle(
            say("Leave this photo out"),
            value=plan.excluded,
            key=f"photos_exclude_{name}",
            help=say("It stays here, and is not trained"),
            on_change=tried,
            args=(_exclude, draft, name),
        )
        with st.popover(say("Delete this photo")):
            st.write(say("It is deleted here with its caption and mask; trainings keep theirs"))
            st.button(say("Yes, delete it"), key=f"photos_delete_{name}", on_click=tried, args=(_delete, draft, photo))


def _facts(plan: Plan) -> None:
    if plan.crops:
        st.image(thumbnail(plan, LARGE))
        (height, width), (rows, columns) = plan.size, plan.shape
        st.caption(
            say(
                "{width} × {height} pixels, trained as {columns} × {rows}: scaled by {scale}, {share} cut off",
                width=width,
                height=height,
                columns=columns,
                rows=rows,
                scale=f"{plan.scale:.2f}",
                share=f"{plan.cut:.0%}",
            )
        )
    if plan.remarks:
        st.warning("\n".join(f"* {in_plain_words(remark.sentence)}" for remark in plan.remarks))


# -- the caption ------------------------------------------------------------------------------------------------


def _caption(photo: Path, prompt: str, plan: Plan) -> None:
    key = f"photos_caption_{photo.name}"
    st.text_area(
        say("Caption"),
        value=_written(photo),
        key=key,
        height=80,
        placeholder=prompt or say("what the photo shows"),
        help=say("What is said of this photo instead of the recipe's prompt; empty: the prompt"),
        on_change=tried,
        args=(_write, photo, key),
    )
    if plan.caption is not None:
        st.caption(say("Training says: {caption}", caption=in_plain_words(plan.caption)))


def _written(photo: Path) -> str:
    try:
        return texts.own_caption(photo) or ""
    except UserError:
        return ""  # which a remark says


def _write(photo: Path, key: str) -> None:
    intake.write_caption(photo, texts.one_caption(st.session_state[key]))


# -- the mask ---------------------------------------------------------------------------------------------------


def _mask(photo: Path) -> None:
    st.caption(
        say("Paint over the subject: where nothing is painted counts little in training. Without a mask everything counts")
    )
    key = f"photos_brush_{photo.name}"
    begun = _begun(photo)
    painted = brush(measures.small_copy(photo), begun, key, say("Mask of {name}", name=photo.name))
    if painted is not None:
        _save(photo, painted)
    if measures.mask_beside(photo) is not None:
        st.button(say("Remove the mask"), key=f"photos_unmask_{photo.name}", on_click=tried, args=(_unmask, photo, key))


def _begun(photo: Path) -> Optional[np.ndarray]:
    """The mask that painting began with: what is painted since is the brush's own."""
    if st.session_state.get(BEGUN, {}).get("photo") != photo:
        mask = measures.mask_beside(photo)
        st.session_state[BEGUN] = {"photo": photo, "mask": mask.small if mask else None, "saved": ""}
    return st.session_state[BEGUN]["mask"]


def _save(photo: Path, painted: np.ndarray) -> None:
    """Beside the photo, in its size, where it is another one than before; nothing where all is black."""
    digest = hashlib.blake2b(painted.tobytes()).hexdigest()
    if digest == st.session_state[BEGUN]["saved"]:
        return
    height, width = image_size(photo)
    grey = np.asarray(Image.fromarray(painted).resize((width, height), Image.Resampling.BILINEAR))
    mask = np.where(grey < 128, 0, 255).astype(np.uint8)
    intake.write_mask(photo, Image.fromarray(mask) if mask.any() else None)
    st.session_state[BEGUN]["saved"] = digest


def _unmask(photo: Path, key: str) -> None:
    intake.write_mask(photo, None)
    forget(key)
    st.session_state.pop(BEGUN, None)


# -- the photo --------------------------------------------------------------------------------------------------


def _exclude(draft: Draft, name: str) -> None:
    out = set(draft.settings().excluded) - {name}
    if st.session_state[f"photos_exclude_{name}"]:
        out.add(name)
    draft.change(excluded=tuple(sorted(out)))


def _delete(draft: Draft, photo: Path) -> None:
    intake.remove(photo)
    draft.change(excluded=tuple(name for name in draft.settings().excluded if name != photo.name))
    choose("")
