"""The words of the part results."""

CHINESE: dict[str, str] = {}
