"""The words of the part sampling."""

CHINESE: dict[str, str] = {}
