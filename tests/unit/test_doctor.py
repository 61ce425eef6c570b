"""The doctor: well where all is well, and each ailment found, named and given its remedy."""

import importlib
import importlib.util
import json
import os
import shutil
import sys

import pytest

import safeencoders
from safeencoders import catalog
from safeencoders.cli import examination
from safeencoders.cli.examination import Finding
from safeencoders.cli.main import main
from safeencoders.pictoworld import models


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SAFEENCODERS_CACHE", str(tmp_path / "lock"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def versions(monkeypatch):
    """Give a setter of what is installed: a version, or None for nothing."""
    real, changed = examination.version, {}

    def version(name):
        if name in changed and changed[name] is None:
            raise examination.PackageNotFoundError(name)
        return changed.get(name) or real(name)

    monkeypatch.setattr(examination, "version", version)
    return changed


def of(check, level=None):
    return [finding for finding in check() if level in {None, finding.level}]


def test_this_installation_is_well_and_says_so(capsys, tmp_path):
    assert main(["doctor", "--json", str(tmp_path / "doctor.json")]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\nAll well.\n")
    written = json.loads((tmp_path / "doctor.json").read_text())
    assert written["doctor"]["well"] is True
    assert {"python", "torch", "shipped weights", "lock file"} <= {f["topic"] for f in written["doctor"]["findings"]}
    assert written["manifest"]["versions"]["safeencoders"] == safeencoders.__version__


def test_one_thing_wrong_is_marked_and_gives_1(capsys, monkeypatch, tmp_path):
    ill = Finding("wrong", "heart", "beats twice: rest")
    monkeypatch.setattr(examination, "CHECKS", (lambda: [ill, Finding("note", "hair", "grey")],))
    assert main(["doctor", "--json", str(tmp_path / "doctor.json")]) == 1
    assert capsys.readouterr().out == "! heart  beats twice: rest\n- hair   grey\n\n1 wrong (marked !)\n"
    assert json.loads((tmp_path / "doctor.json").read_text())["doctor"]["well"] is False


def test_a_check_that_fails_is_a_finding_and_the_others_run(monkeypatch):
    def shipped_weights():
        raise RuntimeError("no such organ")

    monkeypatch.setattr(examination, "CHECKS", (shipped_weights, examination.python))
    first, *others = examination.examine()
    assert first == Finding("wrong", "shipped weights", "cannot be checked: no such organ")
    assert others


def test_help_shows_an_example(capsys):
    assert main(["doctor", "--help"]) == 0
    assert "Example: safeencoders doctor" in capsys.readouterr().out


def test_a_package_below_its_floor_or_missing_is_wrong(versions):
    assert of(examination.packages, "wrong") == []
    versions["transformers"], versions["safetensors"] = "5.5.0", None
    old, missing = of(examination.packages, "wrong")
    assert (old.topic, old.text) == ("transformers", '5.5.0; expected <6,>=5.6: pip install "transformers<6,>=5.6"')
    assert (missing.topic, missing.text) == ("safetensors", 'missing: pip install "safetensors>=0.8"')


def test_a_local_build_and_a_release_candidate_count_as_their_version(versions):
    versions["torch"] = "2.15.0+cpu"
    versions["transformers"] = "5.24.0rc1"
    assert of(examination.packages, "wrong") == []


def test_extras_are_whole_missing_or_too_old(versions):
    versions["diffusers"], versions["faiss-cpu"], versions["peft"] = None, "1.15", "0.1"
    found = of(examination.extras)
    assert Finding("note", "extra diffusers",
                   'diffusers missing; if you need it: pip install "safeencoders[diffusers]"') in found  # fmt: skip
    assert Finding("ok", "extra faiss", "whole") in found
    assert Finding("wrong", "peft", '0.1; expected >=0.21: pip install "peft>=0.21"') in found
    assert not any("extra dev" in finding.topic for finding in found)


def test_an_old_python_is_wrong(monkeypatch):
    assert of(examination.python, "wrong") == []
    monkeypatch.setattr(examination.platform, "python_version", lambda: "3.10.2")
    assert "expected >=3.11: make a new environment" in of(examination.python, "wrong")[0].text


def test_a_torchvision_of_another_torch_is_wrong(monkeypatch, versions, tmp_path):
    versions["torchvision"] = "0.28.0"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "not needed" in of(examination.torchvision, "ok")[0].text
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: True)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)  # another test may have loaded the real one
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (wrong,) = of(examination.torchvision)
    assert wrong.level == "wrong"
    assert "operator torchvision::nms does not exist" in wrong.text
    assert "uninstall it" in wrong.text
    monkeypatch.setitem(sys.modules, "torchvision", examination)
    assert of(examination.torchvision) == [Finding("ok", "torchvision", "0.28.0")]


def test_clip_skip_is_noted_while_the_installed_diffusers_has_the_old_call(monkeypatch, tmp_path):
    place = tmp_path / "pipelines" / "stable_diffusion" / "pipeline_stable_diffusion.py"
    place.parent.mkdir(parents=True)
    spec = importlib.util.spec_from_file_location("diffusers", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec)
    place.write_text("x = self.text_encoder.text_model.final_layer_norm(x)")
    assert [finding.level for finding in of(examination.clip_skip)] == ["note"]
    place.write_text("x = self.text_encoder.final_layer_norm(x)")
    assert of(examination.clip_skip) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert of(examination.clip_skip) == []


def test_damaged_shipped_weights_are_wrong_and_named(monkeypatch, tmp_path):
    assert of(examination.shipped_weights, "wrong") == []
    copy = tmp_path / "weights"
    shutil.copytree(models.WEIGHTS, copy)
    monkeypatch.setattr(models, "WEIGHTS", copy)
    (copy / "clip" / "model.safetensors").write_bytes(b"short")
    (copy / "judge" / "model.safetensors").unlink()
    found = of(examination.shipped_weights)
    assert {(f.level, f.text.partition(": ")[0]) for f in found} == {
        ("wrong", "clip/model.safetensors is truncated or was changed"),
        ("wrong", "judge/model.safetensors is missing"),
    }
    assert str(tmp_path) not in str(found)


def test_offline_mode_and_what_is_cached_are_told(fake_hub, clip_files, monkeypatch):
    monkeypatch.setattr(catalog, "_told", set())
    assert Finding("note", "Hub", f"downloads come from {fake_hub.url} (HF_ENDPOINT)") in of(examination.cache)
    assert Finding("ok", "cached", "no published encoder yet") in of(examination.cache)
    fake_hub.publish("Adeely93/SafeR_CLIP", clip_files)
    with pytest.warns(UserWarning, match="no commercial use"):
        safeencoders.load("safer-clip")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = of(examination.cache)
    assert Finding("ok", "cached", "safer-clip") in found
    assert "offline mode is on" in found[0].text
    assert "(records Adeely93/SafeR_CLIP)" in of(examination.lock_file, "ok")[0].text


def test_a_lock_file_that_is_damaged_or_cannot_be_written_is_told(monkeypatch, tmp_path):
    assert [f.text for f in of(examination.lock_file)] == [f"{tmp_path}/lock/lock.json (nothing downloaded yet)"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert (
        "cannot be written: choose another folder with SAFEENCODERS_CACHE" in of(examination.lock_file, "note")[0].text
    )
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "lock.json").write_text("{")
    assert "is not valid JSON" in of(examination.lock_file, "wrong")[0].text
