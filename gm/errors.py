"""The one exception type that is shown to a person instead of a traceback."""


class UserError(ValueError):
    """Bad input: the message is one sentence with what was wrong, what was given and what would do.

    Commands print it as ``error: <message>`` on standard error and end with status 2.
    """


def require_multiple(what: str, pixels: int, multiple: int) -> None:
    """UserError unless the network can take so many pixels; `what` says whose number it is."""
    if pixels % multiple:
        lower = max(multiple, pixels // multiple * multiple)
        raise UserError(f"{what} {pixels} is not a multiple of {multiple}: take {lower} or {lower + multiple}")
