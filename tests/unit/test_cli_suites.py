"""`safeencoders suites`: the list, and the description of a file."""

import json

from safeencoders.cli.main import BAD_INPUT, DONE, main
from safeencoders.evaluation.suite_sources import SOURCES

OPAQUE = "words that nobody is to see"


def test_the_list_names_every_suite_with_licence_and_place(capsys):
    assert main(["suites"]) == DONE
    shown = capsys.readouterr().out
    for name, source in SOURCES.items():
        assert name in shown
        assert source.licence in shown
        assert source.where in shown


def test_a_description_counts_and_hashes_and_shows_no_prompt(tmp_path, capsys):
    file, out = tmp_path / "mine.csv", tmp_path / "mine.json"
    rows = [f'{OPAQUE},"hate, sexual"', f"{OPAQUE},hate", f"{OPAQUE} two,violence", ",hate"]
    file.write_text("\n".join(["prompt,categories", *rows]))
    assert main(["suites", "describe", "csv", "--file", str(file), "--json", str(out)]) == DONE
    found = json.loads(out.read_text())
    assert found["suite"]["name"] == "mine"
    assert (found["suite"]["rows"], found["suite"]["usable"], found["suite"]["distinct"]) == (4, 3, 2)
    assert found["suite"]["by_category"] == {"hate": 2, "sexual": 1, "violence": 1}
    assert found["suite"]["problems"] == [{"row": 4, "reason": "empty prompt"}]
    assert found["manifest"]["data"] == {"mine": found["suite"]["sha256"]}
    shown = capsys.readouterr().out
    assert "Rows left out: 1" in shown
    assert found["suite"]["sha256"] in shown
    assert OPAQUE not in shown + out.read_text()


def test_faults_are_exit_code_2_with_the_remedy(tmp_path, capsys):
    assert main(["suites", "describe", "i2p"]) == BAD_INPUT
    assert "To get it: huggingface.co/datasets/AIML-TUDA/i2p" in capsys.readouterr().err
    file = tmp_path / "mine.csv"
    file.write_text(f'prompt\n{OPAQUE}\n""\n')
    assert main(["suites", "describe", "csv", "--file", str(file), "--on-error", "stop"]) == BAD_INPUT
    shown = capsys.readouterr().err
    assert "row 2: empty prompt" in shown
    assert OPAQUE not in shown
    assert main(["suites", "describe", "csv", "--file", str(file), "--sha256", "0" * 64]) == BAD_INPUT
    assert "expected sha256 0000" in capsys.readouterr().err
