"""A visitor of the page: a name in the address (`?visit=...`), so that a reload finds the same photos, settings and pictures.

Two visitors have folders of their own under runs/visits; trainings are everybody's.
"""

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Sequence

import streamlit as st

from studio.access import PageOptions
from studio.draft import Draft
from studio.models import Model

NAME = re.compile(r"[0-9a-f]{12}")
OUTPUTS, CHECKPOINTS = Path("outputs"), Path("checkpoints")


@dataclass(frozen=True)
class Studio:
    """What every part of the page is given."""

    options: PageOptions
    models: Mapping[str, Model]
    argv: Sequence[str]  # flags of sampling_without_streamlit.py that count more than a model's
    visit: str

    @property
    def runs(self) -> Path:
        return self.options.runs

    @property
    def folder(self) -> Path:
        """This visitor's: uploads, the draft of a training, the list of pictures."""
        return self.runs / "visits" / self.visit

    @property
    def draft(self) -> Draft:
        """The training that this visitor prepares."""
        return Draft(self.folder / "draft")

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where files may be chosen."""
        return self.runs, OUTPUTS, CHECKPOINTS, *self.options.folders


def visit() -> str:
    """The name of the visitor, which the address then has."""
    name = st.session_state.get("visit") or st.query_params.get("visit", "")
    if not NAME.fullmatch(name):
        name = secrets.token_hex(6)
    st.session_state["visit"] = name
    if st.query_params.get("visit") != name:
        st.query_params["visit"] = name
    return name
