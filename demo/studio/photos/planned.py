"""The plan of each photo by the recipe as it is now, on the page: with why, where the recipe does not fit."""

from dataclasses import replace

import streamlit as st

from gm.config.types import DataConfig
from gm.errors import UserError
from studio.draft import Draft, Settings
from studio.errors import in_plain_words
from studio.photos.plan import Plan, data_of, plans
from studio.visit import Studio
from studio.words import say


def planned(studio: Studio, draft: Draft, settings: Settings) -> tuple[list[Plan], DataConfig]:
    """The plan of each photo. Where the recipe says nothing that fits, as squares, and why is said."""
    data, problem = data_of(studio, settings)
    with st.spinner(say("looking at the photos")):
        try:
            found = plans(draft, settings, data)
        except UserError as error:
            problem, data = error, replace(data, buckets=None)
            found = plans(draft, settings, data)
    if problem is not None and found:
        st.warning(say("The recipe does not fit yet: {why}", why=in_plain_words(str(problem))))
    return found, data
