"""The import of a recipe on the page: the upload, and what became of every setting."""

import streamlit as st

from gm.recipes.draft import DIFFERS, TAKEN, UNKNOWN, UNSUPPORTED
from studio.draft import Draft
from studio.errors import in_plain_words, sentence_of
from studio.recipe import taking_over
from studio.recipe.controls import forget_mistakes
from studio.visit import Studio
from studio.words import later, say

SENTENCE = "recipe_import_sentence"  # in the session: why the last import did not work
OUTCOMES = {  # an outcome -> its words
    UNKNOWN: later("unknown"),
    UNSUPPORTED: later("not supported"),
    DIFFERS: later("differs"),
    TAKEN: later("taken over"),
}


def show_import(studio: Studio, draft: Draft) -> None:
    """The upload, and the report of the last one."""
    with st.expander(say("Import a recipe of another trainer")):
        st.file_uploader(
            say("Recipe files"),
            [suffix[1:] for suffix in taking_over.SUFFIXES],
            accept_multiple_files=True,
            key="recipe_files",
            help=say(
                "Settings of kohya_ss, sd-scripts, OneTrainer, ai-toolkit, a text with a command of sd-scripts or diffusers, or a LoRA "
                "that says how it was trained. Settings that are in two files: give both, the recipe first."
            ),
        )
        st.checkbox(
            say("Keep the size of pictures that the model is trained at here"),
            value=True,
            key="recipe_own_size",
            help=say("Off: the size that the recipe says, which may need more memory than there is."),
        )
        st.button(
            say("Read the recipe"),
            key="recipe_read",
            disabled=not st.session_state["recipe_files"],
            on_click=_read,
            args=(studio, draft),
        )
        sentence = st.session_state.pop(SENTENCE, None)
        if sentence:
            st.error(sentence)
        report = taking_over.report_of(draft) if draft.settings().recipe else None
        if report is not None:
            _show_report(report)


def _read(studio: Studio, draft: Draft) -> None:
    files = [(one.name, one.getvalue()) for one in st.session_state["recipe_files"][:2]]
    try:
        taking_over.take_over(studio, draft, files, st.session_state["recipe_own_size"])
        forget_mistakes()
    except Exception as error:
        st.session_state[SENTENCE] = sentence_of(error)


def _show_report(report: taking_over.Report) -> None:
    counts = {outcome: sum(row.outcome == outcome for row in report.rows) for outcome in OUTCOMES}
    words = ", ".join(f"{number} {say(OUTCOMES[outcome])}" for outcome, number in counts.items() if number)
    st.markdown(
        in_plain_words(say("{name} is a recipe of {tool}: {counts}.", name=report.name, tool=report.tool, counts=words or "-"))
    )
    for note in report.notes:
        st.caption(in_plain_words(note))
    if not report.rows:
        return
    with st.container(height=300):
        for row in report.rows:
            outcome = say(OUTCOMES.get(row.outcome, row.outcome))
            st.markdown(
                f"**{in_plain_words(row.name)}** {in_plain_words(row.given)} · {in_plain_words(outcome)}: {in_plain_words(row.words)}"
            )
