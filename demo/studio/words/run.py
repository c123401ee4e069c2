"""The words of the part run."""

CHINESE: dict[str, str] = {}
