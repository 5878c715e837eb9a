"""A real browser, and the course's own servers for it to visit."""

import functools
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from waiting import SECONDS

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium found; on Debian or Ubuntu: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page that remembers what it loaded and what went wrong."""
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(1e3 * SECONDS)
    page.requests, page.errors = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on(
        "console",
        lambda message: page.errors.append(message.text) if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    yield page
    page.close()


@pytest.fixture(scope="session")
def course(tmp_path_factory):
    """A copy of the notebooks, so that running and saving them leaves the course alone."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def start(arguments, folder, pattern):
    """Start `kexue-lab …` in a folder; return the process and what matches in its output."""
    log = folder / f"{arguments[0]}.log"
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    environment["KEXUE_FIGURES_DIR"] = str(folder / "figures")
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "kexue_lab.course.cli", *arguments],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    for _ in range(10 * SECONDS):
        match = re.search(pattern, log.read_text())
        if match:
            return process, match[0]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"kexue-lab {' '.join(arguments)} did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def lab(course):
    """The address of a JupyterLab started by the course's own command, and its token."""
    process, address = start(["open"], course, r"http://127\.0\.0\.1:\d+/lab/tree/\S+")
    yield re.match(r"(http://[^/]+)/\S*token=(\w+)", address).groups()
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="session")
def app(course):
    """The address of the explorers of one article, served by the course's own command."""
    pytest.importorskip("voila", reason="Voilà is not installed: pip install 'kexue-lab[app]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = ["app", "mathematics/random_sector", "--port", port]
    process, address = start(arguments, course, r"http://localhost:\d+/\S*")
    yield address.replace("localhost", "127.0.0.1")
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="session")
def site():
    """The address of the static site, built if it is not there."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install -e '.[dev]'")
    folder = ROOT / "build" / "site"
    subprocess.run([sys.executable, "docs/build.py"], cwd=ROOT, check=True)
    handler = functools.partial(_Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing is printed per request."""
