"""A page of Streamlit's own tester, by what a person sees on it."""

import time


class Opened:
    """Around an AppTest; what it does ends where the page shows a traceback."""

    def __init__(self, page):
        self.page = page

    def widget(self, label):
        kinds = "text_area", "text_input", "toggle", "slider", "number_input", "selectbox", "radio", "button"
        found = self._found(kinds, label)
        if not found and not self._found(kinds, "All settings")[0].value:
            self.set("All settings", True)
            found = self._found(kinds, label)
        assert found, f"{label!r} is not among the fields"
        return found[0]

    def _found(self, kinds, label) -> list:
        return [one for kind in kinds for one in getattr(self.page, kind) if one.label == label]

    def has(self, label) -> bool:
        return any(one.label == label for one in self.page.button)

    def set(self, label, value):
        self.widget(label).set_value(value)
        return self.run()

    def click(self, label):
        self.widget(label).click()
        return self.run()

    def run(self):
        self.page.run()
        assert not self.page.exception
        return self

    def finished(self):
        """Until nothing is made any more."""
        until = time.monotonic() + 300
        while self.has("Stop"):
            assert time.monotonic() < until
            time.sleep(0.1)
            self.run()
        return self

    @property
    def errors(self) -> list[str]:
        return [one.value.replace("\\", "") for one in self.page.error]

    @property
    def captions(self) -> list[str]:
        return [one.value.replace("\\", "") for one in self.page.caption]

    @property
    def images(self) -> int:
        return len(self.page.get("imgs")) + len(self.page.get("image"))  # by the version

    def says(self, words) -> bool:
        return any(words in one for one in self.captions)
