"""The words of the part photos."""

CHINESE: dict[str, str] = {}
