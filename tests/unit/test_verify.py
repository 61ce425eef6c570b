"""A result holds when it follows from its verdicts and its plan; whatever else is in the file, it does not."""

import copy
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from safeencoders.cli import verifying, verifying_verdicts
from safeencoders.cli.main import main
from safeencoders.cli.verifying import differences, words_of
from safeencoders.errors import BadInputError
from safeencoders.evaluation import rates
from safeencoders.evaluation.calibration import Calibration
from safeencoders.files import sha256_file
from safeencoders.pictoworld import renderer, scenes

NOT_GUARDED = ("commit", "versions", "command", "seconds", "machine", "utc")
"""Of a manifest: what tells where and when, and what is guarded by what it makes (the command)."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Give the files of a real, small run: its JSON and its verdicts, and a calibration of its judge."""
    folder = tmp_path_factory.mktemp("run")
    labels = ["path,unsafe"]
    for number, quad in enumerate(scenes.quads("test", 4, 0)):
        for label, picture in enumerate((quad.safe, quad.unsafe)):
            renderer.to_image(renderer.render(picture)).save(folder / f"{number}-{label}.png")
            labels.append(f"{number}-{label}.png,{label}")
    (folder / "labels.csv").write_text("\n".join(labels))
    known = ("--json", str(folder / "c.json"))
    run_as_typed("evaluate", "calibrate", "--judges", "pictoworld", "--labelled", str(folder / "labels.csv"), *known)
    outputs = ("--calibration", str(folder / "c.json"), "--json", str(folder / "r.json"))
    run_as_typed("evaluate", "generation", "--negative-prompt", "--n", "6", "--steps", "2", *outputs)
    return folder


def run_as_typed(*words):
    """Run a command that finds its own words where a manifest looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["safeencoders", *words])
        assert main(list(words)) == 0


@pytest.fixture(scope="module")
def plan(run):
    return verifying_verdicts._plan(json.loads((run / "r.json").read_text())["manifest"])


@pytest.fixture
def mine(run, tmp_path):
    """Give a copy of the run, to tamper with."""
    for name in ("r.json", "r.verdicts.jsonl"):
        shutil.copy(run / name, tmp_path / name)
    return tmp_path


def rewritten(folder, change=lambda _: None, records=None):
    """Change the results, and the verdicts with their hash, as somebody would who wants it to look right."""
    results = json.loads((folder / "r.json").read_text())
    if records is not None:
        file = folder / "r.verdicts.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in records(rows)))
        results["manifest"]["verdicts"]["sha256"] = sha256_file(file)
    change(results)
    (folder / "r.json").write_text(json.dumps(results))
    return folder / "r.json"


def faults(file, redraw=0):
    results = json.loads(file.read_text())
    return [check.name for check in verifying_verdicts.from_verdicts(file, results, redraw) if check.holds is False]


@pytest.fixture
def made(plan, monkeypatch):
    """Have the plan made once for all tests."""
    monkeypatch.setattr(verifying_verdicts, "_plan", lambda _: plan)


def test_a_result_as_it_was_written_holds(mine, capsys):
    assert main(["evaluate", "verify", str(mine / "r.json"), "--redraw", "3", "--json", str(mine / "v.json")]) == 0
    text = capsys.readouterr().out
    assert "3 of 3 pictures are the same, pixel by pixel" in text
    assert "DOES NOT HOLD" not in text
    assert text.splitlines()[-3].endswith("r.json: holds")
    said = json.loads((mine / "v.json").read_text())["verify"]
    assert said["holds"] is True
    assert {check["holds"] for check in said["checks"]} == {True}


def leaves(value, place=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*place, number))
    else:
        yield place


def tampered(value):
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, str):
        return f"{'1' if value[:1] == '0' else '0'}{value[1:]}"
    return value + 1e-6 if isinstance(value, float) else value + 1


@pytest.mark.usefixtures("made")
def test_every_value_but_those_of_time_and_place_is_guarded(mine, monkeypatch):
    file = mine / "r.json"
    results = json.loads(file.read_text())
    rows = results["systems"]
    monkeypatch.setattr(rates, "table", lambda *_, **__: rows)  # of the same records: computed in the tests around
    found = copy.deepcopy(results)
    places = [p for p in leaves(results) if not (p[0] == "manifest" and p[1] in NOT_GUARDED)]
    places = [p for p in places if p[:2] not in {("plan", "versions"), ("plan", "device")}]
    assert len(places) > 1000
    for *inner, last in places:
        holder = found
        for key in inner:
            holder = holder[key]
        before, holder[last] = holder[last], tampered(holder[last])
        checks = verifying_verdicts.from_verdicts(file, found, 0)
        assert any(check.holds is False for check in checks), [*inner, last]
        holder[last] = before
    assert all(check.holds for check in verifying_verdicts.from_verdicts(file, found, 0))


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: [rows[0] | {"unsafe": not rows[0]["unsafe"]}, *rows[1:]], "decisions"),
        (lambda rows: [rows[0] | {"labels": ["x"]}, *rows[1:]], "decisions"),
        (lambda rows: rows[:-1], "rates"),
        (lambda rows: [*rows, rows[0]], "rates"),
        (lambda rows: [rows[0] | {"categories": ["x"]}, *rows[1:]], "rates"),
        (lambda rows: [{key: value for key, value in rows[0].items() if key != "seed"}, *rows[1:]], "rates"),
        (lambda rows: [r | {"pixels": "0" * 64} for r in rows], "pictures drawn again"),
        (lambda rows: [r | {"scores": {k: min(v + 1e-3, 1.0) for k, v in r["scores"].items()}} for r in rows],
         "pictures drawn again"),
    ],
    ids=["decision", "labels", "a row less", "a row twice", "category", "no seed", "pixels", "scores"],
)  # fmt: skip
def test_a_changed_verdict_is_found_though_the_hash_was_made_to_fit(mine, change, fault):
    assert faults(mine / "r.json", 2) == []
    assert fault in faults(rewritten(mine, records=change), 2)


@pytest.mark.usefixtures("made")
def test_a_changed_or_lost_verdicts_file_is_found(mine):
    file = mine / "r.verdicts.jsonl"
    text = file.read_text()
    file.write_text(text.replace('"image": 0', '"image":  0', 1))
    assert faults(mine / "r.json") == ["verdicts"]
    file.write_text(text[:-20])
    assert faults(mine / "r.json") == ["verdicts"]
    file.unlink()
    assert faults(mine / "r.json") == ["verdicts"]
    rewritten(mine, lambda results: results["manifest"].pop("verdicts"))
    assert main(["evaluate", "verify", str(mine / "r.json"), "--redraw", "0"]) == 1


def test_another_command_or_other_weights_do_not_fit(mine, capsys):
    def fewer(results):
        results["manifest"]["command"] = results["manifest"]["command"].replace("--n 6", "--n 5")

    assert main(["evaluate", "verify", str(rewritten(mine, fewer)), "--redraw", "0"]) == 1
    text = capsys.readouterr().out
    assert "DOES NOT HOLD  plan: prompts.unsafe" in text
    assert text.strip().endswith("r.json: does not hold")


def test_what_cannot_be_opened_here_is_not_checked_and_said_so(mine, capsys, monkeypatch):
    def lost(_):
        raise BadInputError("expected a suite, found none")

    monkeypatch.setattr(verifying_verdicts, "_plan", lost)
    assert main(["evaluate", "verify", str(mine / "r.json")]) == 0
    text = capsys.readouterr().out
    assert "not checked    weights and data: cannot be opened here: expected a suite" in text
    assert "holds, as far as it was checked" in text


def test_rates_are_corrected_by_the_calibration_and_another_one_is_found(run, mine):
    results = json.loads((mine / "r.json").read_text())
    row = results["systems"]["original"]
    known = Calibration.from_dict(results["calibration"])
    assert row["corrected"]["value"] == pytest.approx(known.corrected(row["unsafe"])["value"])
    assert results["manifest"]["data"]["c.json"] == sha256_file(run / "c.json")
    less = json.loads((run / "c.json").read_text())
    less["calibration"] |= {"flagged_unsafe": less["calibration"]["flagged_unsafe"] - 1}
    (mine / "c.json").write_text(json.dumps(less))

    def change(results):
        command = results["manifest"]["command"].replace(str(run / "c.json"), str(mine / "c.json"))
        results["manifest"]["command"] = command

    found = faults(rewritten(mine, change))
    assert {"calibration", "data"} <= set(found)


@pytest.mark.slow
def test_a_calibration_holds_when_it_comes_out_again(run, tmp_path):
    assert main(["evaluate", "verify", str(run / "c.json")]) == 0
    found = json.loads((run / "c.json").read_text())
    found["calibration"]["flagged_safe"] += 1
    (tmp_path / "c.json").write_text(json.dumps(found))
    assert main(["evaluate", "verify", str(tmp_path / "c.json")]) == 1


@pytest.mark.usefixtures("made")
def test_other_versions_are_told(mine, capsys):
    rewritten(mine, lambda results: results["manifest"]["versions"].update(torch="1.0"))
    assert main(["evaluate", "verify", str(mine / "r.json"), "--redraw", "0"]) == 0
    assert "versions differ: torch 1.0 then" in capsys.readouterr().out


# --- results whose command is run again ------------------------------------------------------------------------------
def short(folder, command="safeencoders evaluate retrieval --n 20 --json r.json", **others):
    manifest = {"command": command, "weights": {"w": "1"}, "data": {}, "seeds": {}}
    results = {"retrieval": {"R@1": {"value": 0.25, "n": 4, "interval": [0.1, 0.5]}}, "manifest": manifest} | others
    (folder / "s.json").write_text(json.dumps(results))
    return folder / "s.json"


@pytest.fixture
def runs(monkeypatch):
    """Stand in for the command that is run again; give the words of each call."""
    calls = []

    def again(command, **_):
        calls.append(command)
        content = {"retrieval": {"R@1": {"value": 0.25, "n": 4, "interval": [0.1, 0.5]}}}
        manifest = {"weights": {"w": "1"}, "data": {}, "seeds": {}}
        with open(command[command.index("--json") + 1], "w") as file:
            json.dump(content | {"manifest": manifest}, file)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(verifying.subprocess, "run", again)
    return calls


def test_a_command_is_run_again_without_its_outputs(tmp_path, runs):
    command = "safeencoders evaluate retrieval --json a.json --n 20 --json=b.json --towers vision"
    assert main(["evaluate", "verify", str(short(tmp_path, command))]) == 0
    words = runs[0]
    assert words[words.index("evaluate") : -1] == ["evaluate", "retrieval", "--n", "20", "--towers", "vision", "--json"]


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("place", ["value", "n", "interval", "weights"])
def test_a_changed_number_or_hash_of_a_short_result_is_found(place, tmp_path):
    file = short(tmp_path)
    results = json.loads(file.read_text())
    rate = results["retrieval"]["R@1"]
    if place == "weights":
        results["manifest"]["weights"]["w"] = "2"
    elif place == "interval":
        rate["interval"][1] += 1e-6
    else:
        rate[place] += 1
    file.write_text(json.dumps(results))
    assert main(["evaluate", "verify", str(file)]) == 1


@pytest.mark.parametrize(
    "command",
    [
        "rm -rf /",
        "safeencoders train --recipe x",
        "safeencoders evaluate verify x.json",
        "safeencoders evaluate retrieval ; rm -rf /",
        "safeencoders evaluate retrieval --n $(reboot)",
        "safeencoders evaluate retrieval --unknown 3",
        "safeencoders evaluate retrieval --help",
        "safeencoders evaluate retrieval --data 'x",
        "",
    ],
)
def test_other_commands_are_refused_and_nothing_is_run(command, tmp_path, runs, capsys):
    assert main(["evaluate", "verify", str(short(tmp_path, command))]) == 2
    assert runs == []
    assert "error: expected" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"manifest": {}}', '{"manifest": {"command": 3}}'])
def test_what_is_no_result_cannot_be_read(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    assert main(["evaluate", "verify", str(tmp_path / "x.json")]) == 2


def test_a_command_that_fails_here_says_why(tmp_path, monkeypatch, capsys):
    failed = SimpleNamespace(returncode=2, stderr="bar\nerror: unknown encoder 'x'\n")
    monkeypatch.setattr(verifying.subprocess, "run", lambda *_, **__: failed)
    assert main(["evaluate", "verify", str(short(tmp_path))]) == 2
    assert "cannot be run here: error: unknown encoder 'x'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_short_result_holds_and_a_changed_one_does_not(tmp_path):
    file = tmp_path / "r.json"
    command = ["evaluate", "retrieval", "--n", "20", "--json", str(file)]
    subprocess.run([sys.executable, "-c", verifying._RUN, *command], check=True)
    assert main(["evaluate", "verify", str(file)]) == 0
    file.write_text(file.read_text().replace('"n": 20', '"n": 21', 1))
    assert main(["evaluate", "verify", str(file)]) == 1


def test_differences_are_named_by_their_place():
    one = {"a": {"b": [1, 2.0]}, "c": True}
    assert list(differences(one, copy.deepcopy(one))) == []
    assert list(differences(one, {"a": {"b": [1, 2.5]}, "c": 1})) == [
        "a.b[1] is 2.0 in the file, 2.5 now",
        "c is true in the file, 1 now",
    ]
    assert list(differences({"x": 1}, {"y": 1})) == ["x is only in the file", "y is not in the file"]


def test_words_leave_out_what_was_written():
    manifest = {"command": "safeencoders evaluate generation --out d --n 3 --report=x --json r.json"}
    assert words_of(manifest) == ["generation", "--n", "3"]
