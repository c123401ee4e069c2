"""The part "photos" of the page."""

from studio.visit import Studio


def render(studio: Studio) -> None:
    """The part as it is now."""
