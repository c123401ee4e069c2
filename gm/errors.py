"""The one exception type that is shown to a person instead of a traceback."""


class UserError(ValueError):
    """Bad input: the message is one sentence with what was wrong, what was given and what would do.

    Commands print it as ``error: <message>`` on standard error and end with status 2.
    """
