"""What progress pictures are called: `progress/step_000500_00.png` is the first prompt's after 500 updates. No MindSpore import."""

import re

FOLDER = "progress"  # of a run's results
NAME, NAMED = "step_{:06d}_{:02d}.png", re.compile(r"step_(\d{6,})_(\d{2,})\.png")
