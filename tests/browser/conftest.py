"""A real browser before a real server: one server for all tests, a fresh visitor for each."""

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest

CHROMIUM = os.environ.get("SAFEENCODERS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
START_SECONDS = 600


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Start `safeencoders demo` as a user does, and give its address."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install safeencoders[demo]")
    pytest.importorskip("diffusers")
    place = tmp_path_factory.mktemp("server")
    environment = os.environ | {"TMPDIR": str(place), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", "import sys; from safeencoders.cli.main import main; sys.exit(main())"]
    with (place / "log").open("w+") as log:
        process = subprocess.Popen([*command, "demo"], stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            yield Server(_address(process, place / "log"), place, process.pid)
        finally:
            process.terminate()
            process.wait(60)
    assert not list(place.glob("safeencoders-demo-*")), "the server left files behind"


@dataclass(frozen=True)
class Server:
    url: str
    folder: object
    pid: int

    def files(self):
        """Return the pictures and uploads that lie on the server now."""
        return [path for path in self.folder.glob("safeencoders-demo-*/**/*") if path.is_file()]


def _address(process, log):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"The demo is at (\S+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.5)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH; set SAFEENCODERS_CHROMIUM to one")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visitor:
    """A visitor: a page, what it asked for elsewhere, what its console said."""

    page: object
    url: str
    outside: list = field(default_factory=list)
    console: list = field(default_factory=list)

    def open(self, query=""):
        self.page.goto(self.url + query)
        self.page.wait_for_selector("#draw", state="attached")  # a link may open another tab

    def tab(self, name):
        """Go to a tab; a narrow page keeps some behind a button."""
        tab = self.page.get_by_role("tab", name=name, exact=True)
        if tab.count() and tab.first.is_visible():
            tab.first.click()
        else:
            self.page.locator(".overflow-menu > button").first.click()
            self.page.locator(".overflow-dropdown button", has_text=name).click()
        self.page.wait_for_timeout(300)

    def draw(self, prompt=None):
        if prompt is not None:
            self.page.fill("#prompt textarea", prompt)
        self.page.click("#draw")
        self.page.wait_for_selector("#pair img")

    def toast(self):
        """Return the words of the message that the page shows, and close it."""
        toast = self.page.locator(".toast-body").first
        toast.wait_for()
        said = toast.inner_text()
        toast.get_by_role("button").last.click()
        return said

    def bytes_of(self, selector):
        """Return the picture behind an <img>, as the server gives it."""
        return self.page.request.get(self.page.locator(selector).first.get_attribute("src")).body()


@pytest.fixture
def visitor(server, chromium):
    made = []

    def come(**options):
        context = chromium.new_context(viewport={"width": 1200, "height": 900}, **options)
        context.set_default_timeout(120_000)  # of a machine that does other things, too
        guest = Visitor(context.new_page(), server.url)
        guest.page.on("console", lambda line: guest.console.append(line.text) if line.type == "error" else None)
        guest.page.on("pageerror", lambda error: guest.console.append(str(error)))
        guest.page.on("dialog", lambda dialog: (guest.console.append("a dialog"), dialog.dismiss()))
        guest.page.on("request", lambda asked: _note(guest, asked.url))
        made.append((context, guest))
        return guest

    yield come
    for context, guest in made:
        context.close()
        assert guest.outside == []
        assert guest.console == []


def _note(guest, url):
    if not url.startswith((guest.url, "data:", "blob:")):
        guest.outside.append(url)
