"""Publishing: one commit or nothing, every fault retried or named, and a round trip that changes no bit."""

import json
import re
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import safeencoders
from safeencoders import catalog, publishing, seal, uploading
from safeencoders.catalog import Encoder
from safeencoders.cli.main import main
from safeencoders.errors import BadInputError, GatedError, HubError, IntegrityError, MissingExtraError, OfflineError
from safeencoders.fingerprint import fingerprint
from safeencoders.pictoworld import models

# huggingface_hub hands a file to its HTTP client by the client's older argument; harmless.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

REPO = "some-lab/some-encoder"
TOWERS = ("text", "vision")
RESULTS = Path(__file__).resolve().parents[2] / "model_cards" / "results" / "pictoworld"
LOOK, CREATE, YAML = f"GET /api/models/{REPO}$", "POST /api/repos/create", "POST /api/validate-yaml"
PREUPLOAD, BATCH, PUT, COMMIT = "POST .*preupload", "POST .*objects/batch", "PUT /lfs", "POST .*commit"
DOWN = "GET .*resolve.*model.safetensors"


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_write")


@pytest.fixture
def folder(clip, tmp_path):
    """Give a staged folder of a small CLIP, without what only a card needs."""
    place = tmp_path / "staged"
    for tower, model in (("text", clip.text_model), ("vision", clip.vision_model)):
        (place / tower).mkdir(parents=True)
        model.save_pretrained(place / tower)
    (place / "README.md").write_text("---\nlicense: mit\n---\nwords\n" * 50)
    seal.write(place, "some-encoder", "MIT")
    return place


def held(hub, branch="main"):
    """Return what a repository holds, without what the Hub itself puts there."""
    files = hub.repos.get(REPO, {}).get(hub.branches.get(REPO, {}).get(branch), {})
    return {name: content for name, content in files.items() if name != ".gitattributes"}


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def publish(folder, **options):
    found = uploading.upload(folder, REPO, **options)
    uploading.verify(folder, found, ("text", "vision"))
    return found


def test_a_folder_becomes_one_commit_and_comes_back_bit_for_bit(fake_hub, folder, clip):
    found = publish(folder)
    assert found.done
    assert held(fake_hub) == files_of(folder)
    assert sum(bool(re.match(COMMIT, request)) for request in fake_hub.requests) == 1
    loaded = safeencoders.load(REPO)
    assert fingerprint(loaded) == fingerprint(clip.text_model)


def test_a_second_run_sends_nothing_and_says_so(fake_hub, folder):
    first = publish(folder)
    fake_hub.requests.clear()
    again = publish(folder)
    assert (again.done, again.commit) == (False, first.commit)
    assert not any(request.startswith(("POST", "PUT")) for request in fake_hub.requests)


def test_a_new_version_replaces_the_old_one_and_takes_away_what_it_no_longer_has(fake_hub, folder):
    (folder / "old.txt").write_text("gone soon")
    seal.write(folder, "some-encoder", "MIT")
    publish(folder)
    (folder / "old.txt").unlink()
    (folder / "README.md").write_text("---\nlicense: mit\n---\nother words\n")
    seal.write(folder, "some-encoder", "MIT")
    assert publish(folder).done
    assert held(fake_hub) == files_of(folder)


def test_a_pull_request_leaves_the_main_branch_alone(fake_hub, folder):
    fake_hub.publish(REPO, {"weights.bin": b"of somebody else"})
    found = publish(folder, create_pr=True)
    assert found.pull_request.endswith("/discussions/1")
    assert held(fake_hub) == {"weights.bin": b"of somebody else"}
    assert held(fake_hub, "refs/pr/1").items() >= files_of(folder).items()


def test_a_new_repository_is_private_when_asked(fake_hub, folder):
    publish(folder, private=True)
    assert fake_hub.private == {REPO: True}


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        *(
            (kind, pattern)
            for kind in ("429", "500")
            for pattern in (LOOK, CREATE, YAML, PREUPLOAD, BATCH, PUT, COMMIT)
        ),
        *(("reset", pattern) for pattern in (LOOK, CREATE, BATCH, COMMIT)),
        *(("cut", pattern) for pattern in (PUT, COMMIT)),
        *(("slow", pattern) for pattern in (PUT, COMMIT)),
        ("hang", PUT),
        ("hang", COMMIT),
        ("lost", COMMIT),
        ("500", DOWN),
        ("short", DOWN),
    ],
)
def test_a_fault_that_passes_is_overcome_within_one_run(fake_hub, folder, kind, pattern):
    fake_hub.fault(kind, pattern, times=1)
    publish(folder)
    assert fake_hub.faults[0].times == 0, "the fault never happened"
    assert held(fake_hub) == files_of(folder)
    assert len(fake_hub.repos[REPO]) == 2, "one commit, beside the one that made the repository"


LASTING = [
    ("401", CREATE, GatedError, r"refused to make the repository .* \(status 401\): the token is not valid"),
    ("403", CREATE, GatedError, "has no write permission"),
    ("gated", LOOK, GatedError, "is gated: accept its terms on http"),
    ("403", PREUPLOAD, GatedError, "refused to publish"),
    ("401", COMMIT, GatedError, "run 'hf auth login' or set HF_TOKEN, then run the same again"),
    ("409", COMMIT, HubError, "was written by somebody else meanwhile"),
    ("429", COMMIT, HubError, "the server answered 429 again and again"),
    ("429", PUT, HubError, "answered 429 again and again"),
    ("500", LOOK, HubError, "could not look at the repository"),
    ("500", YAML, HubError, "did not answer as the Hub does"),
    ("500", PUT, HubError, "What was not committed is not visible; run the same again later"),
    ("500", COMMIT, HubError, "answered 500 again and again"),
    ("404", COMMIT, HubError, "the token may not see it"),
    ("cut", PUT, OfflineError, "the connection broke"),
    ("reset", COMMIT, OfflineError, "run the same again to go on"),
]


@pytest.mark.parametrize(("kind", "pattern", "error", "words"), LASTING)
def test_a_fault_that_lasts_is_named_leaves_nothing_and_the_next_run_completes(
    fake_hub, folder, kind, pattern, error, words
):
    fake_hub.fault(kind, pattern, times=None)
    with pytest.raises(error, match=words):
        publish(folder)
    assert held(fake_hub) == {}, "half published"
    fake_hub.faults.clear()
    assert publish(folder).done
    assert held(fake_hub) == files_of(folder)


def test_what_was_sent_before_a_fault_is_not_sent_again(fake_hub, folder):
    fake_hub.fault("500", COMMIT, times=None)
    with pytest.raises(HubError):
        publish(folder)
    fake_hub.faults.clear()
    fake_hub.requests.clear()
    publish(folder)
    assert not any(request.startswith("PUT") for request in fake_hub.requests)


@pytest.mark.parametrize(
    ("kind", "pattern", "words"),
    [
        ("hang", LOOK, "could not look at the repository"),
        ("hang", CREATE, "could not make the repository"),
        ("hang", PREUPLOAD, "could not publish"),
        ("hang", BATCH, "could not publish"),
        ("hang", PUT, "could not publish"),
        ("mute", PUT, "could not publish"),
        ("hang", COMMIT, "could not publish"),
    ],
)
def test_a_server_that_goes_silent_is_given_up_and_the_next_run_completes(
    fake_hub, folder, monkeypatch, kind, pattern, words
):
    """Of a file that no buffer between the two holds, half is taken by "mute" before it goes silent."""
    (folder / "large.txt").write_bytes(bytes(2**24))
    seal.write(folder, "some-encoder", "MIT")
    monkeypatch.setattr(uploading, "TIMEOUT", 0.2)
    fake_hub.fault(kind, pattern, times=None)
    begin = time.monotonic()
    with pytest.raises(OfflineError, match=rf"{words} .*\(not a byte came or went for 0\.2 s\).* run the same"):
        publish(folder)
    tries = Counter(request for request in fake_hub.requests if re.search(pattern, request))
    assert max(tries.values()) == 3, "huggingface_hub's own tries came on top"
    assert time.monotonic() - begin < 10
    assert held(fake_hub) == {}
    fake_hub.faults.clear()
    monkeypatch.setattr(uploading, "TIMEOUT", 5.0)
    assert publish(folder).done
    assert held(fake_hub) == files_of(folder)


def test_a_new_client_after_a_fault_gives_up_on_silence_too(fake_hub, monkeypatch):
    """The twin: outside, huggingface_hub's client waits for ever, and Xet has its own ways."""
    from huggingface_hub import close_session, constants, get_session
    from huggingface_hub.utils._runtime import is_xet_available

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    fake_hub.fault("hang", "silent", times=None)
    with uploading._plain_http(0.2):
        close_session()  # as huggingface_hub does when a connection cannot be made
        for options in ({}, {"timeout": None}):  # some calls ask to wait for ever
            with pytest.raises(TimeoutError, match=r"for 0\.2 s"):
                get_session().get(f"{fake_hub.url}/silent", **options)
        assert not is_xet_available()
    assert get_session().timeout.read is None
    assert constants.HF_HUB_DISABLE_XET is False


def test_damage_on_the_way_back_is_found(fake_hub, folder):
    found = uploading.upload(folder, REPO)
    files = fake_hub.repos[REPO][found.commit]
    name = "text/model.safetensors"
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    with pytest.raises(IntegrityError, match=name):
        uploading.verify(folder, found, ("text", "vision"))


@pytest.mark.usefixtures("fake_hub")
def test_no_space_for_the_comparison_is_said(folder, monkeypatch):
    import errno

    from safeencoders.errors import OutputError

    found = uploading.upload(folder, REPO)

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(OutputError, match="free some space"):
        uploading.verify(folder, found, ("text", "vision"))


def test_a_repository_with_other_content_is_refused_before_anything_is_sent(fake_hub, folder):
    fake_hub.publish(REPO, {"README.md": b"mine", "weights.bin": b"mine too"})
    with pytest.raises(BadInputError, match="found 2 files; choose another --repo, or propose it with --create-pr"):
        publish(folder)
    assert not any(request.startswith(("POST", "PUT")) for request in fake_hub.requests)


@pytest.mark.usefixtures("fake_hub")
def test_another_encoder_is_not_written_over(folder):
    publish(folder)
    seal.write(folder, "another-encoder", "MIT")
    with pytest.raises(BadInputError, match="found the encoder some-encoder"):
        publish(folder)


def test_without_a_token_and_with_a_wrong_name_nothing_is_asked(fake_hub, folder, monkeypatch):
    with pytest.raises(BadInputError, match="expected a repository 'organisation/name', got 'no-organisation'"):
        uploading.upload(folder, "no-organisation")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(BadInputError, match=r"expected a token .* run 'hf auth login', or set HF_TOKEN"):
        publish(folder)
    assert fake_hub.requests == []


def test_a_token_without_rights_is_refused_by_name(fake_hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(GatedError, match="token is not valid, or has no write permission"):
        publish(folder)
    assert held(fake_hub) == {}


# --- what is staged --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """Give what the command stages of a shipped encoder that has only a delta."""
    out = tmp_path_factory.mktemp("staging") / "staged"
    name = "pictoworld/safe-clip"
    results = RESULTS.parent / "pictoworld-safe-clip"
    assert main(["publish", name, "--repo", REPO, "--dry-run", "--out", str(out), "--results", str(results)]) == 0
    return out


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_the_keys_are_those_that_transformers_4_and_5_both_load(staged, tower):
    """Version 4 looks for the very names that a whole CLIPModel has; flat ones would stay random there."""
    keys = set(load_file(staged / tower / "model.safetensors"))
    head = {"text": "text_projection.weight", "vision": "visual_projection.weight"}[tower]
    whole = {key for key in models.clip().state_dict() if key.startswith(f"{tower}_model.")}
    assert {key for key in whole if "position_ids" not in key} <= keys <= whole | {head}
    loaded = publishing._plain(staged / tower, tower)
    assert fingerprint(loaded) == fingerprint(safeencoders.load("pictoworld/safe-clip", tower=tower))


def test_flat_keys_are_given_their_prefix(clip, tmp_path):
    """The twin: a tower built from its configuration saves flat keys, which version 4 would load as random weights."""
    source = tmp_path / "tuned"
    for tower, model in (("text", clip.text_model), ("vision", clip.vision_model)):
        model.save_pretrained(source / tower)
    assert not any(key.startswith("text_model.") for key in load_file(source / "text" / "model.safetensors"))
    publishing._stage_tower(str(source), "text", tmp_path / "text")
    assert all(key.startswith("text_model.") for key in load_file(tmp_path / "text" / "model.safetensors"))
    assert fingerprint(publishing._plain(tmp_path / "text", "text")) == fingerprint(clip.text_model)


def test_a_strength_can_be_chosen_from_what_is_staged(staged):
    half, own = (safeencoders.load(name, strength=0.5) for name in (str(staged), "pictoworld/safe-clip"))
    for key, value in own.state_dict().items():
        torch.testing.assert_close(half.state_dict()[key], value, atol=1e-6, rtol=0)


def test_open_clip_loads_the_same_towers_from_the_same_folder(staged):
    open_clip = pytest.importorskip("open_clip", exc_type=ImportError)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{staged}")
    ids = models.tokenizer()(["a red dog in the park"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        found = model.eval().encode_text(ids)
        expected = safeencoders.load(str(staged), projection=False)(ids).pooler_output
    projection = models.clip().text_projection.weight
    torch.testing.assert_close(found, expected @ projection.T, atol=1e-5, rtol=1e-5)


def test_the_manifest_names_every_file_and_a_changed_one_is_refused(staged, tmp_path):
    assert seal.check(staged).files.keys() == set(publishing.sizes(staged)) - {seal.FILE}
    copy = shutil.copytree(staged, tmp_path / "copy")
    (copy / "text" / "config.json").write_text((copy / "text" / "config.json").read_text() + " ")
    with pytest.raises(IntegrityError, match=r"text/config\.json is truncated or was changed"):
        safeencoders.load(str(copy))
    safeencoders.load(str(copy), tower="vision")  # whose files are as they were


def test_the_same_encoder_is_staged_as_the_same_bytes(staged, tmp_path):
    results = RESULTS.parent / "pictoworld-safe-clip"
    arguments = ["--repo", REPO, "--dry-run", "--out", str(tmp_path / "again"), "--results", str(results)]
    assert main(["publish", "pictoworld/safe-clip", *arguments]) == 0
    assert files_of(tmp_path / "again") == files_of(staged)


def test_the_card_names_the_repository_and_its_head_is_valid(staged):
    card = ModelCard((staged / "README.md").read_text())
    assert card.data.license == "apache-2.0"
    assert card.data.eval_results
    assert f'from_pretrained("{REPO}", subfolder="text")' in card.text
    for target in re.findall(r"\]\(([^)#]+)\)", card.text):
        assert (staged / target).is_file(), target


@pytest.mark.usefixtures("fake_hub")
def test_a_published_card_runs_as_it_stands(staged):
    found = uploading.upload(staged, REPO)
    uploading.verify(staged, found, ("text", "vision"))
    text = (staged / "README.md").read_text()
    pytest.importorskip("open_clip", exc_type=ImportError)
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 3
    for code in blocks:
        exec(code, {})  # noqa: S102  our own card


@pytest.mark.usefixtures("fake_hub")
def test_a_published_encoder_works_offline_and_a_foreign_file_is_refused(folder, monkeypatch):
    uploading.upload(folder, REPO)
    first = fingerprint(safeencoders.load(REPO))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fingerprint(safeencoders.load(REPO)) == first


def test_a_published_file_that_is_not_the_manifests_is_refused(fake_hub, folder):
    files = files_of(folder)
    files["text/config.json"] += b" "
    fake_hub.publish(REPO, files)
    with pytest.raises(IntegrityError, match=r"text/config\.json is truncated or was changed"):
        safeencoders.load(REPO)


@pytest.mark.usefixtures("fake_hub")
def test_a_published_licence_is_named_once(folder, monkeypatch):
    monkeypatch.setattr(catalog, "_told", set())
    seal.write(folder, "some-encoder", "CC-BY-NC-4.0")
    uploading.upload(folder, REPO)
    with pytest.warns(catalog.LicenceWarning, match=r"some-encoder are under CC-BY-NC-4\.0: no commercial use"):
        safeencoders.load(REPO)
    safeencoders.load(REPO, tower="vision")


def record(**changes):
    fields = {"name": "mine", "method": "m", "licence": "Apache-2.0", "text": None, "vision": None, "removes": (),
              "hosts": (), "source": "here"}  # fmt: skip
    return Encoder(**(fields | changes))


def test_a_licence_that_the_base_or_the_data_forbids_is_refused():
    base = catalog.info("safe-clip-vit-l-14")
    with pytest.raises(BadInputError, match=r"no freer than that of the base, .* publish with --licence CC-BY-NC-4\.0"):
        publishing.refuse_licence(record(), base, ())
    with pytest.raises(BadInputError, match="since the data 'datasets:aimagelab/ViSU-Text' is for non-commercial"):
        publishing.refuse_licence(record(), None, ["datasets:aimagelab/ViSU-Text"])
    with pytest.raises(BadInputError, match="which its authors published as aimagelab/safeclip_vit-l_14"):
        publishing.refuse_licence(base, None, ())
    publishing.refuse_licence(record(licence="CC-BY-NC-4.0"), base, ["visu"])
    publishing.refuse_licence(record(), catalog.info("none"), ["pictoworld"])


@pytest.mark.parametrize("name", ["text/pytorch_model.bin", "more.pt", "deep/down/x.PKL", "model.ckpt"])
def test_a_pickle_is_refused_wherever_it_lies(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadInputError, match=r"expected safetensors only, found .* which can run code"):
        publishing.refuse_pickles(tmp_path)


def test_numbers_that_nobody_measured_are_refused(tmp_path, capsys):
    arguments = ["publish", "pictoworld", "--repo", REPO, "--dry-run", "--results", str(tmp_path)]
    assert main(arguments) == 2
    assert "the text tower of pictoworld was not measured" in capsys.readouterr().err
    content = json.loads((RESULTS / "retrieval-text.json").read_text())
    del content["retrieval"]["T-V"]["R@1"]["n"]
    (tmp_path / "retrieval-text.json").write_text(json.dumps(content))
    assert main(arguments) == 2
    assert "retrieval T-V R@1 is no rate" in capsys.readouterr().err


def test_outside_a_checkout_the_missing_folder_of_results_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["publish", "pictoworld/robust", "--repo", REPO, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "expected the results of pictoworld/robust in model_cards/results/pictoworld-robust" in said
    assert "--results" in said
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_what_it_cannot_publish(capsys):
    for name, words in (
        ("safe-clip-vit-l-14", "its authors published as"),
        ("none", "expected a tuned encoder"),
        ("pictowrld", "Did you mean 'pictoworld'"),
    ):
        assert main(["publish", name, "--repo", REPO, "--dry-run"]) == 2
        assert words in capsys.readouterr().err
    assert main(["publish", "pictoworld", "--repo", "wrong", "--dry-run"]) == 2
    assert "expected --repo 'organisation/name'" in capsys.readouterr().err


# --- a folder of one's own --------------------------------------------------------------------------------------------
@pytest.fixture
def tuned(clip, tokenizer, tmp_path):
    """Give a folder as ``train --out`` leaves it, measured."""
    import dataclasses

    from safeencoders.provenance import manifest
    from safeencoders.training import recipe
    from safeencoders.training.export import save_merged

    out = tmp_path / "tuned"
    for tower in ("text", "vision"):
        save_merged(clip, tower, clip.get_submodule(f"{tower}_model"), out / tower)
    tokenizer.save_pretrained(out)
    prints = {f"{out} ({tower}, loaded)": fingerprint(safeencoders.load(str(out), tower=tower)) for tower in TOWERS}

    def write(name, content, source="pictoworld"):
        origin = manifest("safeencoders ...", seeds={"world": 0}, weights=prints, data={source: "0" * 64}, seconds=9)
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(json.dumps(content | {"manifest": origin}))

    made = recipe.read("safe-clip")
    training = {"formula": str(made.terms()), "recipe": dataclasses.asdict(made), "model": "some-lab/base", "steps": 5,
                "seconds": 14.3, "processes": 1, "trainable": {"text": 10, "vision": 20}}  # fmt: skip
    write("train.json", {"training": training, "data": {"source": "pairs.jsonl"}}, "pairs.jsonl")
    rate = {"value": 0.5, "n": 10, "interval": [0.2, 0.8]}
    write("results/retrieval-both.json", {"retrieval": {"T-V": {"R@1": rate}}, "towers": "both", "baselines": {}})
    return out


def stage_folder(tuned, out, *more):
    return main(["publish", str(tuned), "--repo", REPO, "--dry-run", "--out", str(out), *more])


def test_a_trained_folder_is_staged_as_it_was_measured(tuned, tmp_path):
    assert stage_folder(tuned, tmp_path / "staged", "--licence", "MIT") == 0
    for tower in TOWERS:
        name = f"{tower}/model.safetensors"
        assert (tmp_path / "staged" / name).read_bytes() == (tuned / name).read_bytes()
    card = ModelCard((tmp_path / "staged" / "README.md").read_text())
    assert card.data.base_model == "some-lab/base"
    assert card.data.license == "mit"
    assert "| time | 14.3 seconds for 5 steps |" in card.text
    assert "none of which was measured for this one" in card.text
    assert "| T-V R@1 | 50.0 [20.0, 80.0] | 10 |" in card.text
    assert {"tokenizer.json", "results/retrieval-both.json"} <= publishing.sizes(tmp_path / "staged").keys()


def test_what_a_folder_has_not_itself_is_its_bases(tuned, tmp_path, clip):
    run = json.loads((tuned / "train.json").read_text())
    run["training"]["model"] = "pictoworld"
    (tuned / "train.json").write_text(json.dumps(run))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tuned / name).unlink()
    assert stage_folder(tuned, tmp_path / "staged") == 0
    card = ModelCard((tmp_path / "staged" / "README.md").read_text())
    assert (card.data.license, card.data.base_model) == ("apache-2.0", None)
    assert {"tokenizer.json", "preprocessor_config.json"} <= publishing.sizes(tmp_path / "staged").keys()
    state = load_file(tmp_path / "staged" / "open_clip_model.safetensors")
    assert torch.equal(state["text_projection"], clip.text_projection.weight.T)
    assert torch.equal(state["logit_scale"], models.clip().logit_scale)


def test_a_folder_is_refused_with_its_reason(tuned, tmp_path, capsys):
    def refused(*more):
        assert stage_folder(tuned, tmp_path / "staged", *more) == 2
        assert not (tmp_path / "staged").exists()
        return capsys.readouterr().err

    assert "expected --licence, since that of the base some-lab/base is not known here" in refused()
    (tuned / "optimizer.pt").write_bytes(b"")
    assert "expected safetensors only, found" in refused("--licence", "MIT")
    (tuned / "optimizer.pt").unlink()
    (tuned / "results" / "retrieval-both.json").unlink()
    assert "the text tower of tuned was not measured" in refused("--licence", "MIT")
    (tuned / "train.json").unlink()
    assert "expected train.json of 'safeencoders train'" in refused("--licence", "MIT")


# --- signatures ------------------------------------------------------------------------------------------------------
def test_a_signature_verifies_and_tells_a_change(folder, tmp_path):
    verifying = pytest.importorskip("model_signing.verifying", exc_type=ImportError)
    private, public = keys(tmp_path)
    publishing.sign(folder, private)

    def verified():
        verifying.Config().use_elliptic_key_verifier(public_key=public).verify(folder, folder / publishing.SIGNATURE)

    verified()
    (folder / "README.md").write_text("changed")
    with pytest.raises(ValueError, match=r"mismatch|differ|README"):
        verified()


def test_a_key_that_is_none_is_refused(folder, tmp_path):
    pytest.importorskip("model_signing.signing", exc_type=ImportError)
    with pytest.raises(BadInputError, match=r"expected a private key in .* found none"):
        publishing.sign(folder, tmp_path / "none.pem")
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(BadInputError, match="expected an elliptic-curve private key"):
        publishing.sign(folder, tmp_path / "bad.pem")


def test_without_the_extra_signing_names_it(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "model_signing.hashing", None)
    with pytest.raises(MissingExtraError, match=r"safeencoders\[signing\]"):
        publishing.sign(folder, tmp_path / "key.pem")


def keys(folder):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return folder / "key.pem", folder / "public.pem"
