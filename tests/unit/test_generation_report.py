"""The report says what was measured, needs nothing beside it, and shows nothing that was judged unsafe."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from safeencoders.evaluation import plots
from safeencoders.evaluation.generation_report import write_report
from safeencoders.evaluation.generation_sections import Names
from safeencoders.evaluation.presets import Rule
from safeencoders.evaluation.rates import table

CATEGORIES = ("hate", "violence", "sexual")
SHARES = {"original": 0.5, "encoder": 0.1, "negative": 0.3, "negative+encoder": 0.05, "sld-weak": 0.4,
          "sld-weak+encoder": 0.08, "sld-max": 0.2, "sld-max+encoder": 0.02}  # fmt: skip
RULES = (Rule("nudenet", ("A", "B"), 0.6), Rule("q16", ("inappropriate",), 0.5, above=True))


def judged(systems=tuple(SHARES), prompts=60):
    rng = np.random.default_rng(0)
    for system in systems:
        for group in ("unsafe", "benign"):
            for row in range(prompts):
                share = SHARES[system] if group == "unsafe" else 0.03
                nude, other = (float(x) for x in rng.beta(2, 2, 2) * (1.6 if rng.random() < share else 0.55))
                scores = {"nudenet/A": min(nude, 1.0), "nudenet/B": 0.1, "q16/inappropriate": min(other, 1.0) * 0.6}
                labels = [label for rule in RULES for label in rule.fired(scores)]
                record = {"system": system, "group": group, "row": row, "image": 0, "seed": row, "error": None,
                          "categories": [CATEGORIES[row % 3]] if group == "unsafe" else [],
                          "unsafe": bool(labels), "labels": labels, "scores": scores, "pixels": "0"}  # fmt: skip
                yield record | ({"utility": {"lost": 0.0, "pixel_distance": 0.1}} if group == "benign" else {})


def made(records):
    rows = table(records, rules=RULES, bootstraps=200)
    return {
        "generation": rows["encoder"],
        "systems": rows,
        "suite": {"name": "i2p", "rows": 60, "distinct": 60, "sha256": "a" * 64, "problems": []},
        "preset": {"name": "p", "about": "NudeNet or Q16", "source": "a paper", "rules": [vars(r) for r in RULES]},
        "plan": {"pipeline": {"name": "org/sd"}, "encoder": "safe-clip", "steps": 50, "seed": 0},
        "manifest": {"command": "safeencoders", "verdicts": {"file": "t.verdicts.jsonl", "sha256": "b" * 64}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def records():
    return list(judged())


@pytest.fixture(scope="module")
def results(records):
    return made(records)


@pytest.fixture
def thumbs(tmp_path, records):
    for record in records:
        if record["row"] < 3:
            file = tmp_path / "thumbs" / record["system"] / f"{record['group']}-{record['row']}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 48), "red" if record["unsafe"] else "green").save(file)
    return tmp_path / "thumbs"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "xlink:href", "action", "data"}]


def test_the_page_needs_nothing_beside_it(results, records, thumbs, tmp_path):
    write_report(results, iter(records), thumbs, tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text()
    page = Page(text)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "http" not in re.sub(r"data:image/png;base64,[\w+/=]*", "", text).replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert page.tags.count("svg") == 5  # pairs, two of categories, one for each judge
    assert page.tags.count("img") == 36
    twin = Page('<img src="https://example.org/a.png"><script></script>')
    assert twin.links == ["https://example.org/a.png"]
    assert "script" in twin.tags


def test_the_six_rows_come_with_category_rates_intervals_floor_and_p(results, records, tmp_path):
    write_report(results, records, None, tmp_path)
    text = (tmp_path / "report.md").read_text()
    block = text[text.index("Pictures judged unsafe, by category") :].split("\n\n")[1].splitlines()
    assert block[0].split("|")[2:-1] == [f" {name} " for name in ("hate", "violence", "sexual", "all", "floor")]
    rows = [line.split("|")[1].strip() for line in block[2:]]
    assert rows == ["org/sd as it is", "+ safe-clip encoder", "negative prompt", "negative prompt + safe-clip encoder",
                    "SLD weak", "SLD weak + safe-clip encoder", "SLD max", "SLD max + safe-clip encoder"]  # fmt: skip
    rate = results["systems"]["negative"]["by_category"]["sexual"]["unsafe_clustered"]
    low, high = rate["interval"]
    assert f"{100 * rate['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in block[4]
    floor = results["systems"]["negative"]["floor_clustered"]["value"]
    assert block[4].split("|")[-2].strip().startswith(f"{100 * floor:.1f} [")
    p = results["systems"]["encoder"]["paired"]["original"]["p"]
    assert p < 0.001
    assert f"{p:.1e}" in text


def test_unsafe_pictures_are_named_as_blurred_and_cannot_be_uncovered(results, records, thumbs, tmp_path):
    write_report(results, records, thumbs, tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text()
    assert "judged unsafe, blurred: " in text
    assert "i2p row 2" in text
    assert "checkbox" not in text
    assert "nothing can show them" in text
    pictures = list((tmp_path / "out/pictures").glob("*.png"))
    assert len(pictures) == 36
    assert all(f"(pictures/{file.name})" in (tmp_path / "out/report.md").read_text() for file in pictures)


def test_a_picture_that_some_system_lacks_leaves_its_row_out(results, records, thumbs, tmp_path):
    (thumbs / "encoder/unsafe-1.png").unlink()
    write_report(results, records, thumbs, tmp_path / "out")
    text = (tmp_path / "out/report.html").read_text()
    assert "i2p row 1<" not in text
    assert "i2p row 2<" in text


def test_a_run_of_one_system_or_without_judges_parts_has_a_report_too(tmp_path):
    records = [record | {"scores": {}} for record in judged(("original",), 5)]
    results = made([*records, *judged(("encoder",), 5)])
    rows = {"original": results["systems"]["original"]}
    one = results | {"systems": rows, "generation": rows["original"], "plan": {}, "preset": {}, "manifest": {}}
    write_report(one, records, tmp_path / "none", tmp_path)
    assert "no cases" in (tmp_path / "report.md").read_text()  # fewer than 25 prompts have no expected maximum


def test_names_and_markup_of_users_are_text(results, records, tmp_path):
    hostile = results | {"suite": results["suite"] | {"name": "<script>alert(1)</script>|x"}}
    write_report(hostile, records, None, tmp_path)
    assert "<script>" not in (tmp_path / "report.html").read_text()
    assert "| unsafe | \\<script\\>alert(1)\\</script\\>\\|x | 60 |" in (tmp_path / "report.md").read_text()


def test_plots_are_well_formed_and_readable_alone(results, records, tmp_path):
    from xml.etree import ElementTree as ET

    write_report(results, records, None, tmp_path)
    for file in (tmp_path / "plots").iterdir():
        assert ET.parse(file).getroot().tag.endswith("svg")  # noqa: S314  our own
        assert "background: #fff" in file.read_text()
    text = plots.curves("x", {"a": ([0.0, 1.0], [1.0, 0.0])}, x_label="t", y_label="%", marks=[0.5])
    assert "NaN" not in text


def test_every_system_has_a_name_of_its_own():
    names = Names("sd", "safe")
    assert len({names(system) for system in SHARES}) == len(SHARES)
    assert names("original") == "sd as it is"
