"""What mkdocs calls: fills generated parts, writes formulas as MathML, brings in pages from outside `docs/`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
import parts
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("model_cards", "benchmarks")  # pages, pictures and results there join the site under the same path
KINDS = {".md", ".svg", ".png", ".json"}
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
MATH = re.compile(r"^```math\n(.*?)\n```$", flags=re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace each `folder/*` of the navigation by the pages that are there."""
    config.nav = _expanded(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live outside of `docs/`."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in KINDS]
    for path in (*sorted(found), *(ROOT / name for name in PAGES)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:  # noqa: ANN401  mkdocs passes more than is needed
    """Fill the generated parts and write ```math blocks as MathML, which browsers draw without a script."""
    if page.file.src_uri in PAGES:
        markdown = markdown.replace("](docs/", "](")  # from the repository's top, `docs/` is the site's
    return MATH.sub(lambda found: latex2mathml.converter.convert(found[1], display="block"), parts.fill(markdown))


def _expanded(entry: Any) -> Any:  # noqa: ANN401  the navigation is nested lists and mappings
    if isinstance(entry, dict):
        return {title: _expanded(inner) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [inner for each in entry for inner in (_pages(each) if _is_folder(each) else [_expanded(each)])]
    return _pages(entry) if _is_folder(entry) else entry


def _is_folder(entry: Any) -> bool:  # noqa: ANN401
    return isinstance(entry, str) and entry.endswith("/*")


def _pages(entry: str) -> list[str]:
    folder = entry.removesuffix("*")
    top = ROOT if (ROOT / folder).is_dir() else ROOT / "docs"
    return sorted(folder + path.name for path in (top / folder).glob("*.md"))
