"""The page as a person opens it: a server of its own and headless Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# Whether nothing has been made for 500 milliseconds
IDLE = """() => {
    const stop = [...document.querySelectorAll("button")].some((button) => button.innerText.trim() === "Stop")
    const idle = !stop && document.querySelector("[data-testid=stApp]").dataset.testScriptState === "notRunning"
    idleSince = idle ? idleSince ?? performance.now() : undefined
    return idle && performance.now() - idleSince > 500
}"""
PATIENCE = 300_000  # milliseconds for the model to be loaded and compiled on a busy machine


def chromium() -> Optional[str]:
    """The installed browser, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def served(folder: Path, log: Path, *flags: object) -> Iterator[int]:
    """The README's command, run in `folder` with `flags` for the page; gives the port."""
    port = free_port()
    command = (sys.executable, "-m", "streamlit", "run", ROOT / "demo" / "sampling.py", "--server.port", port, "--", *flags)
    inherited = ("GLOG_v", "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION")  # set by these tests, and by MindSpore
    environment = {key: value for key, value in os.environ.items() if key not in inherited}
    with open(log, "wb") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        server = subprocess.Popen([str(word) for word in command], cwd=folder, env=environment, **streams)
    try:
        until = time.monotonic() + PATIENCE / 1000
        while True:
            assert server.poll() is None and time.monotonic() < until, log.read_text()
            try:
                urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(30)


def person() -> dict[str, str]:
    """The environment of a browser: with the allocator of tests/run.sh it may not start."""
    return {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}


@contextmanager
def opened(port: int, profile: Path, width: int = 1280, height: int = 860):
    """The page in a new browser; gives Playwright's page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, window(playwright, f"http://127.0.0.1:{port}/", profile, width, height) as page:
        yield page


@contextmanager
def window(playwright, address: str, profile: Path, width: int = 1280, height: int = 860, **settings):
    """This address in a browser of this Playwright; `settings` such as the language and dark mode are those of a new context."""
    size = {"width": width, "height": height}
    browser = playwright.chromium.launch_persistent_context(
        str(profile),
        executable_path=chromium(),
        args=list(FLAGS),
        viewport=size,
        accept_downloads=True,
        env=person(),
        **settings,
    )
    try:
        browser.set_default_timeout(PATIENCE)
        page = browser.pages[0]
        page.goto(address)
        yield page
    finally:
        browser.close()


def sample(page) -> None:
    """Press the button and wait until the pictures are there."""
    page.get_by_role("button", name="Sample", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    finished(page)


def finished(page) -> None:
    """Wait until nothing is made any more; the page's script may run twice in a row, so it must have been idle for a while."""
    page.evaluate("idleSince = undefined")
    page.wait_for_function(IDLE)
