"""The site: builds without a warning, loads nothing from elsewhere, has no dead link, and leaves nothing out."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from pipelines import PIPELINES

from safeencoders import __version__, catalog
from safeencoders.integrations.slots import annotated, others_of, reads, slots_of
from safeencoders.training.objectives import objectives

ROOT = Path(__file__).resolve().parents[2]
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
LOADS = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}
NO_LOAD = {"canonical", "next", "prev"}  # relations of <link> that fetch nothing


def build(config, out):
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", config, "--site-dir", out]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # an advertisement of mkdocs-material's own
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    made = build(ROOT / "mkdocs.yml", out)
    assert made.returncode == 0, made.stderr
    assert "WARNING" not in made.stderr
    return out


class Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in LOADS and found.get(LOADS[tag]) and found.get("rel") not in NO_LOAD:
            self.loads.append(found[LOADS[tag]])


def read(folder):
    return {path.relative_to(folder).as_posix(): Page(path.read_text("utf-8")) for path in folder.rglob("*.html")}


def dead(folder):
    """Return "page -> target" of every internal link, picture and script that leads nowhere."""
    pages, found = read(folder), []
    for name, page in pages.items():
        for target in (*page.links, *page.loads):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or name == "404.html":  # a server shows that page anywhere
                continue
            place = (folder / name).parent / unquote(parts.path) if parts.path else folder / name
            place = place.resolve()
            there = pages.get(place.relative_to(folder.resolve()).as_posix()) if place.is_file() else None
            anchor = unquote(parts.fragment)
            if not place.is_file() or (there and anchor and anchor != "__top" and anchor not in there.anchors):
                found.append(f"{name} -> {target}")
    return sorted(found)


def foreign(folder):
    """Return "page -> target" of everything that a page loads from elsewhere."""
    return [f"{n} -> {t}" for n, page in read(folder).items() for t in page.loads if urlsplit(t).netloc]


def test_no_link_is_dead_and_nothing_is_loaded_from_elsewhere(site):
    assert dead(site) == []
    assert foreign(site) == []
    assert not any("unpkg.com" in path.read_text("utf-8") for path in site.rglob("*.html"))


def test_a_dead_link_a_dead_anchor_and_a_foreign_script_are_seen(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="x"></h1><a href="b.html#y"></a><a href="#x"></a><a href="#z"></a>')
    (tmp_path / "b.html").write_text('<img src="no.png"><script src="https://cdn.example/x.js"></script>')
    assert dead(tmp_path) == ["a.html -> #z", "a.html -> b.html#y", "b.html -> no.png"]
    assert foreign(tmp_path) == ["b.html -> https://cdn.example/x.js"]


def test_a_page_in_no_navigation_or_with_a_dead_link_stops_the_build(tmp_path):
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n[b](no.md)\n")
    small = {
        "site_name": "a",
        "strict": True,
        "validation": config["validation"],
        "theme": {"name": "material", "font": False},
    }
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(small))
    made = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert made.returncode != 0
    assert "no.md" in made.stderr


def test_every_objective_encoder_and_command_is_in_the_site(site):
    for name in objectives:
        page = (site / "methods" / f"{name}.html").read_text("utf-8")
        assert "<svg viewBox" in page
        assert f"L[{name}] =" in page
    encoders = (site / "encoders.html").read_text("utf-8")
    assert all(f"<code>{name}</code>" in encoders for name in catalog.encoders())
    limits = Page((site / "limits.html").read_text("utf-8"))
    assert limits.anchors
    commands = (site / "reference" / "commands.html").read_text("utf-8")
    assert all(f"safeencoders {name}" in commands for name in ("train", "evaluate generation", "world build", "doctor"))
    assert "<!-- generated" not in "".join(path.read_text("utf-8") for path in site.rglob("*.html"))


def test_what_the_models_of_the_table_read_is_what_tiny_ones_read(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    import hosts

    tiny = {"IP-Adapter with ViT-H": "StableDiffusionPipeline-ip-adapter"}
    checked = 0
    for model in hosts.MODELS:
        name = tiny.get(model.name, model.kind)
        if name not in PIPELINES:
            continue  # LLaVA's: tests/integration/test_llava.py
        pipe = PIPELINES[name].build()
        slots = {slot.name: slot for slot in slots_of(pipe.components, annotated(pipe))}
        for place in model.places:
            slot = slots[place.slot]
            assert (slot.kind, slot.projection, reads(pipe, slot)) == (place.kind, place.projection, place.reads)
        assert bool(model.others) == any(other.kind == "text" for other in others_of(pipe.components))
        checked += 1
    assert checked >= 5


def leftover(text):
    """Return paragraphs that begin with, or go on as, a list or a table: Markdown that was not understood."""
    return re.findall(r"<p>(?:[^<]|<(?!/p>))*?(?:(?<=<p>)|\n)(?:- |\d+\. |\|)", text)


def test_every_list_and_table_was_understood(site):
    assert {path.name: found for path in site.rglob("*.html") if (found := leftover(path.read_text("utf-8")))} == {}


def test_a_list_that_was_not_understood_is_seen():
    assert leftover("<p>- a</p>")
    assert leftover("<p>so <b>it</b>\n| a | b |</p>")
    assert not leftover("<p>a - b | c 1. d</p><ul>\n<li>- </li></ul>")


def test_the_citation_names_this_version_and_invents_no_address():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["version"] == __version__
    assert not {"doi", "url", "repository-code", "identifiers"} & set(cited)


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_have_what_a_form_needs(file):
    form = yaml.safe_load(file.read_text("utf-8"))
    if file.stem == "config":
        assert form == {"blank_issues_enabled": False}
        return
    assert {"name", "description", "body"} <= set(form)
    assert all(part["type"] == "markdown" or (part["id"] and part["attributes"]["label"]) for part in form["body"])
