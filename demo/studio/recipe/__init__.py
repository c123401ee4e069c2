"""The part "recipe" of the page."""

from studio.recipe.page import show
from studio.visit import Studio


def render(studio: Studio) -> None:
    """The part as it is now."""
    show(studio)
