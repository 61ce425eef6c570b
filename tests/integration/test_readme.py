"""The README's code runs as it stands, and what it names exists."""

import re
from pathlib import Path

import pytest
from PIL import Image

from safeencoders.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_python_blocks_run_one_after_the_other():
    scope = {}
    for code in BLOCKS:
        exec(code, scope)  # noqa: S102  our own README
    assert isinstance(scope["image"], Image.Image)
    assert scope["coverage"].complete


def test_there_is_a_python_block():
    assert BLOCKS


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_and_pictures_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_every_command_of_the_readme_is_known(capsys):
    lines = [line.split("#")[0].split()[1:3] for line in README.splitlines() if line.startswith("safeencoders ")]
    commands = {tuple(word for word in words if not word.startswith("-")) for words in lines}
    assert commands
    for words in commands:
        assert main([*words, "--help"]) == 0, words
        assert "Usage" in capsys.readouterr().out
