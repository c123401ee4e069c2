"""Damaging files and values in ever new ways, for the time of FUZZ_SECONDS: what the tests of damaged files share."""

import os
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gm.errors import UserError

SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))
SHARES = 6  # tests here that share them
COUNTS: Counter = Counter()
SLOWEST = 5.0  # seconds that a small file may take


@pytest.fixture(scope="module", autouse=True)
def told(request):
    """The figures of a long run, past pytest's capture."""
    yield
    if SECONDS:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            for what in sorted({what for what, _ in COUNTS}):
                read, refused = COUNTS[what, "read"], COUNTS[what, "refused"]
                print(f"\n{what}: {read + refused:,} calls, {read:,} read, {refused:,} refused", end="")
            print(f"\nin all: {sum(COUNTS.values()):,} calls, no other outcome")


def fuzz(strategies: dict, examples: int, found=()):
    """`check(folder, **drawn)` as a test: so many examples, or new ones for this test's share of FUZZ_SECONDS; `found`: what was
    found with it."""

    def decorate(check):
        def test(tmp_path_factory):
            folder = tmp_path_factory.mktemp("fuzz")
            drawn = given(**strategies)(lambda **values: check(folder, **values))
            for values in found:
                drawn = example(**values)(drawn)
            usual = settings(
                deadline=None,
                derandomize=False,
                database=None,
                max_examples=examples,
                suppress_health_check=list(HealthCheck),
            )(drawn)
            end = time.monotonic() + SECONDS / SHARES
            usual()
            while time.monotonic() < end:
                usual()

        test.__doc__ = check.__doc__
        return test

    return decorate


def outcome(what: str, call) -> bool:
    """Whether the call succeeds; it may raise a UserError of one line, and takes little time."""
    start = time.monotonic()
    try:
        call()
        COUNTS[what, "read"] += 1
        return True
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000
        COUNTS[what, "refused"] += 1
        return False
    finally:
        assert time.monotonic() - start < SLOWEST


# -- bytes ---------------------------------------------------------------------------------------------------------

SMALL = st.binary(min_size=1, max_size=9) | st.sampled_from(
    [b"\xff" * 9, b"\0" * 8, b"[" * 1500, b'"', b"{", b"}", b"\\ud800", b"-0"]
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["flip", "cut", "insert", "double", "remove"]), st.floats(0, 1), st.floats(0, 0.2), SMALL),
    min_size=1,
    max_size=4,
)


def edited(content: bytes, edits) -> bytes:
    """Places are shares of the length; half of them are near the start, where all but numbers is."""
    for how, where, share, new in edits:
        at = int((where**3 if len(edits) % 2 else where) * len(content))
        end = at + int(share * len(content))
        if how == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << new[0] % 8)]) + content[at + 1 :]
        elif how == "cut":
            content = content[:at]
        elif how == "insert":
            content = content[:at] + new + content[at:]
        elif how == "double":
            content = content[:end] + content[at:end] + content[end:]
        elif how == "remove":
            content = content[:at] + content[end:]
    return content
