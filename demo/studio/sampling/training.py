"""Whether a training is at work on this machine, of which pictures take longer."""

from pathlib import Path
from typing import Optional

import streamlit as st

from gm.jobs.control import jobs
from gm.jobs.state import state


@st.cache_data(ttl=5, show_spinner=False)
def running_training(runs: Path) -> Optional[str]:
    """The name of a job that is at work; None where there is none."""
    return next((job.name for job in jobs(runs) if state(job).phase in ("starting", "running", "stopping")), None)
