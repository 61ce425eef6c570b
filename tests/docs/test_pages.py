"""The site's pages: every block of code runs as it stands."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from blocks import blocks_of, run_page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CODE = {"python", "bash"}
SLOW = {
    "tutorials/compare.md",
    "tutorials/evaluate.md",
    "tutorials/publish.md",
}  # minutes of training or drawing: run by `make test-all`
ELSEWHERE = {"open_clip.md"}  # needs photos: tests/integration/test_open_clip.py runs it
PAGES = sorted(
    path.relative_to(DOCS).as_posix()
    for path in DOCS.rglob("*.md")
    if any(block.language in CODE for block in blocks_of(path))
)


@pytest.fixture(autouse=True)
def _as_a_new_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFEENCODERS_CACHE", str(tmp_path / "cache"))
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PAGES if name not in ELSEWHERE],
)
def test_the_blocks_of_a_page_run(name):
    run_page(DOCS / name)


@pytest.mark.parametrize("name", sorted(SLOW | ELSEWHERE))
def test_blocks_that_run_elsewhere_are_at_least_looked_at(name):
    run_page(DOCS / name, run=False)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```python\nraise ValueError('here')\n```", "here"),
        ("```python\nprint('a b')\n```\n```text\na c\n```", "expected the output"),
        ('```python title="Not run here: so"\nx = (\n```', "never closed"),
        ('```python title="mine"\nx = 1\n```', "expected a title"),
        ("```bash\npip install it\n```", "can be run here"),
        ("```bash\nsafeencoders doctor --no-such-option\n```", "ended with 2"),
        ('```bash title="Not run here: so"\nsafeencoders doctor --no-such-option\n```', "is no command"),
        ("```bash\nsafeencoders --version  # exit code 1\n```", "ended with 0"),
    ],
)
def test_a_page_that_does_not_hold_fails(page, message, tmp_path):
    (tmp_path / "page.md").write_text(page)
    with pytest.raises((AssertionError, ValueError, SyntaxError), match=message) as fault:
        run_page(tmp_path / "page.md")
    assert "page.md:" in fault.value.__notes__[0]


def test_a_titled_file_is_written_and_a_page_that_holds_passes(tmp_path):
    reading = 'from pathlib import Path\nprint(Path("mine.toml").read_text(), "and more")'
    (tmp_path / "page.md").write_text(
        f'```toml title="mine.toml"\nx = 1\n```\n```python\n{reading}\n```\n```text\nx = 1 ...\n```\n'
        "```bash\nsafeencoders --version\n```\n"
    )
    run_page(tmp_path / "page.md")
