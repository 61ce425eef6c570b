"""The report: self-contained, escaped, unsafe pictures veiled; and the plots it shows."""

import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from safeencoders.evaluation import plots
from safeencoders.evaluation.report import Details, Pictures, Plot, Section, render_report, write_report
from safeencoders.evaluation.tables import Table
from safeencoders.metrics import rate

HOSTILE = "a cat <script>alert('x')</script> & \"more\" <img src=https://evil.example/x.png>"
GROUPS: plots.Rates = {"hate": rate(3, 42), "cost $5 to $9 <b>": rate(40, 42), "none": rate(0, 0, allow_empty=True)}
SERIES: dict[str, plots.Rates] = {"before": GROUPS, "after <i>": {"hate": rate(0, 42)}}
VOID = {"meta", "input", "img", "path", "use", "br", "rect"}


class Page(HTMLParser):
    """Tags with their attributes; a closing tag that does not match its opening one is a failure."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def all_plots() -> list[str]:
    return [
        plots.bars('Bars <b> & "x"', SERIES),
        plots.horizontal_bars("By category", SERIES),
        plots.lines("Loss", {"loss $a$": [(0, 2.0), (10, 1.0)], "one": [(5, 1.5)]}),
    ]


def page(prompt: str = "a cat", marked: bool = True) -> str:
    image = Image.new("RGB", (64, 64), "#00f")
    return render_report(
        f"Title {prompt}",
        f"Lead {prompt}",
        [
            Section(
                "Numbers " + prompt, ["Text " + prompt, Table(prompt, ["", prompt], [[prompt, prompt]], note=prompt)]
            ),
            Section("Plots", [Plot(svg, prompt) for svg in all_plots()]),
            Section(
                "",
                [Pictures(["before", prompt], [(prompt, [(image, prompt, marked), (image, prompt, False)])], prompt)],
            ),
            Section("", [Details("Manifest " + prompt, {"command": prompt, "seeds": {"world": 1}})]),
        ],
    )


def test_a_plain_page_parses_and_a_hostile_prompt_adds_no_tag() -> None:
    plain, hostile = Page(page()), Page(page(HOSTILE))
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in hostile.tags]
    assert plain.named("script") == []
    assert "&lt;script&gt;" in page(HOSTILE)
    assert "<script" not in page(HOSTILE)


def test_the_check_for_hostile_tags_can_fail() -> None:
    with_tag = page().replace("Lead a cat", "Lead <script>alert(1)</script>")
    assert Page(with_tag).named("script") == [{}]


def test_nothing_is_loaded_from_anywhere() -> None:
    text = page()
    assert "http://" not in text
    assert "https://" not in text
    for _, attributes in Page(page(HOSTILE)).tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import", text)
    policy = Page(text).named("meta")[1]
    assert str(policy["content"]).startswith("default-src 'none'")


def test_unsafe_pictures_are_veiled_behind_a_checkbox_and_others_are_not() -> None:
    marked, safe = Page(page(marked=True)), Page(page(marked=False))
    assert len(marked.named("input")) == 2  # one for the picture, one for all
    assert not any("checked" in box for box in marked.named("input"))
    assert safe.named("input") == []
    assert len(marked.named("img")) == len(safe.named("img")) == 2
    assert str(marked.named("img")[0]["alt"]).startswith("judged unsafe")
    assert ".veil img { filter: blur(" in page()


def test_light_dark_and_narrow_are_cared_for() -> None:
    text = page()
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert text.count('class="scroll"') == 1 + 3 + 1


def test_the_report_is_written_whole(tmp_path: Path) -> None:
    write_report(tmp_path / "deep/report.html", "T", "L", [Section("S", ["text"])])
    assert (tmp_path / "deep/report.html").read_text(encoding="utf-8") == render_report(
        "T", "L", [Section("S", ["text"])]
    )
    bad: Any = 3
    with pytest.raises(TypeError, match="A section holds"):
        write_report(tmp_path / "bad.html", "T", "L", [Section("S", [bad])])
    assert not (tmp_path / "bad.html").exists()


@pytest.mark.parametrize(
    "svg",
    [
        "<p>no</p>",
        "<svg><script>1</script></svg>",
        '<svg onload="x()"></svg>',
        "<svg></svg><script>1</script><svg></svg>",
        "<svg><!--><script>1</script>--></svg>",
        '<svg><style>@import "x"</style></svg>',
        '<svg><a href="javascript:x()"></a></svg>',
        '<svg><image href="x.png"/></svg>',
        '<svg><use xlink:href="https://x.example/#a"/></svg>',
        '<svg><path style="fill: url(https://x.example)"/></svg>',
    ],
)
def test_a_plot_that_could_run_or_load_something_is_refused(svg: str) -> None:
    with pytest.raises(ValueError, match="Expected a plot"):
        render_report("T", "L", [Section("S", [Plot(svg)])])


def test_plots_are_stand_alone_deterministic_and_say_their_values() -> None:
    first = all_plots()
    assert first == all_plots()
    for svg in first:
        assert svg.startswith("<svg ")
        assert 'xmlns="http://www.w3.org/2000/svg"' in svg
        assert "currentColor" in svg
        Page(svg)
    assert "7.1" in first[0]
    assert "95.2" in first[1]
    assert "hate (n=42)" in first[1]
    assert "last: 1" in first[2]


def test_names_in_plots_are_text_not_formulas_or_markup() -> None:
    assert "cost $5 to $9 &lt;b&gt;" in all_plots()[0]
    assert "loss $a$" in all_plots()[2]


def test_a_name_that_looks_like_code_is_still_only_a_name() -> None:
    svg = plots.lines("once = url(x) <script> --> href=y", {"<!-- onload=x -->": [(0, 1)]})
    assert Page(render_report("T", "L", [Section("S", [Plot(svg)])])).named("script") == []


def test_ids_of_different_plots_do_not_collide() -> None:
    found = [set(re.findall(r' id="([^"]+)"', svg)) for svg in all_plots()]
    assert all(found)
    assert not set.intersection(*found)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.bars("t", {}), "1 to 7 series"),
        (lambda: plots.bars("t", {str(i): GROUPS for i in range(8)}), "1 to 7 series"),
        (lambda: plots.horizontal_bars("t", {"a": {}}), "nothing to plot"),
        (lambda: plots.lines("t", {"a": []}), "has no points"),
    ],
)
def test_what_cannot_be_plotted_is_refused(draw: Callable[[], str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"safeencoders\[eval\]"):
        plots.lines("t", {"a": [(0, 1)]})
