"""Links and pictures of the documentation exist, the README is a page, and every page is there in both languages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md"), *ROOT.glob("checkpoints/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


def headings(page: Path) -> int:
    return sum(line.startswith("#") for line in page.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("english", [p for p in PAGES if p.parent.name == "docs" and not p.stem.endswith("_CN")], ids=str)
def test_every_page_is_there_in_chinese(english):
    chinese = english.with_name(f"{english.stem}_CN.md")
    assert chinese.exists() and headings(chinese) == headings(english)


def test_the_readme_is_a_page():
    english, chinese = ROOT / "README.md", ROOT / "README_CN.md"
    assert headings(english) == headings(chinese)
    for page in (english, chinese):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 160


def test_commands_name_files_that_exist():
    for page in PAGES:
        for name in re.findall(
            r"(?:python|bash) ((?:tools|tests|bench|demo)/[\w/]+\.(?:py|sh))", page.read_text(encoding="utf-8")
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_configs_named_in_the_readmes_exist():
    for page in PAGES:
        for name in re.findall(r"configs/(?:training|inference)/[\w./]+\.yaml", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
