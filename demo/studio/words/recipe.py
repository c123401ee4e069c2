"""The words of the part recipe."""

CHINESE: dict[str, str] = {}
