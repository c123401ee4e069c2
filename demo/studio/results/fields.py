"""Fields for numbers that say what is wrong with a number: a browser drops one that is out of bounds without a word."""

from typing import Any, Optional

from studio.words import say


def whole_number(place: Any, label: str, value: int, least: int, most: int, key: str) -> Optional[int]:
    """The number of the field; None, with a sentence below it that names the field, where it cannot be taken."""
    given = place.number_input(label, value=value, step=1, key=key)
    if given is not None and least <= given <= most:
        return int(given)
    place.error(say("{field}: give a whole number from {least} to {most}", field=label, least=least, most=most))
    return None
