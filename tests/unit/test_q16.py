"""The Q16 judge: learned prompts in the space of an original CLIP, read without running anything, fitted on any."""

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from safeencoders import loading, trust
from safeencoders.errors import BadInputError, DownloadError, IntegrityError, OfflineError
from safeencoders.evaluation.detectors import q16_backbone, q16_prompts
from safeencoders.evaluation.detectors.inert_pickle import read_array
from safeencoders.evaluation.detectors.pictoworld import PictoworldDetector
from safeencoders.evaluation.detectors.q16 import CERTAIN, LABEL, Q16
from safeencoders.pictoworld import models, scenes
from safeencoders.pictoworld.renderer import render_batch, to_image

SHARED = Path(os.environ.get("SAFEENCODERS_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
WORLD = 128  # the width of the world's common space


@pytest.fixture(scope="module")
def backbone():
    return q16_backbone.load("none")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(trust.VARIABLE, str(tmp_path / "cache"))


def pair(width=WORLD, seed=0):
    return torch.randn(2, width, generator=torch.Generator().manual_seed(seed))


def pictures(split, n, seed):
    quads = scenes.quads(split, n // 2, seed)
    return [to_image(one) for one in render_batch([q.safe for q in quads] + [q.unsafe for q in quads])]


def tiny(width=768, patch=14, size=224):
    """A vision tower of one layer with the outer sizes of an OpenAI CLIP."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1, "num_hidden_layers": 1}
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(**sizes, image_size=size, patch_size=patch, projection_dim=width)
    ).eval()


# --- the decision ----------------------------------------------------------------------------------------------------
def test_the_nearer_prompt_decides_and_its_share_is_kept():
    prompts = q16_prompts.of_vectors(torch.eye(2), scale=2.0)
    angle = torch.tensor([0.0, 45.0, 60.0, 90.0]).deg2rad()
    shares = prompts.inappropriate(5 * torch.stack([angle.cos(), angle.sin()], 1))  # lengths do not matter
    expected = torch.stack([2 * angle.cos(), 2 * angle.sin()], 1).softmax(1)[:, 1]
    assert torch.allclose(shares, expected)
    assert shares[1] == 0.5


@pytest.mark.parametrize(("share", "argmax", "certain"), [(0.5, False, False), (0.7, True, False), (0.9, True, True)])
def test_both_conventions_are_thresholds_of_one_score(share, argmax, certain, backbone):
    prompts = q16_prompts.of_vectors(pair(), fingerprint=backbone.fingerprint)
    for threshold, unsafe in ((0.5, argmax), (CERTAIN, certain)):
        verdict = Q16(clip="none", prompts=prompts, threshold=threshold)._verdict(share)
        assert (verdict.unsafe, verdict.labels) == (unsafe, (LABEL,) if unsafe else ())
        assert verdict.scores == {LABEL: share}


def test_fitted_prompts_agree_with_the_worlds_judge(backbone):
    train, test = pictures("train", 500, 0), pictures("test", 120, 1)
    looks = PictoworldDetector()
    truth = {name: torch.tensor([v.unsafe for v in looks(part)]) for name, part in (("train", train), ("test", test))}
    embedded = backbone.embed(train)
    judge = Q16(clip="none", prompts=q16_prompts.fit(embedded, truth["train"], fingerprint=backbone.fingerprint))
    said = torch.tensor([verdict.unsafe for verdict in judge(test)])
    assert (said == truth["test"]).float().mean() >= 0.95
    mixed = truth["train"][torch.randperm(500, generator=torch.Generator().manual_seed(0))]  # the twin
    lost = q16_prompts.fit(embedded, mixed, fingerprint=backbone.fingerprint, steps=50)
    said = torch.tensor([verdict.unsafe for verdict in Q16(clip="none", prompts=lost)(test)])
    assert (said == truth["test"]).float().mean() < 0.9


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (torch.randn(4, 3), torch.ones(4), "both kinds"),
        (torch.randn(4, 3), torch.ones(3), r"got \(4, 3\) and \(3,\)"),
        (torch.full((2, 3), torch.nan), torch.tensor([0, 1]), "finite embeddings"),
    ],
)
def test_nothing_is_learned_from_rows_that_cannot_teach(rows, labels, message):
    with pytest.raises(BadInputError, match=message):
        q16_prompts.fit(rows, labels, fingerprint="")


def test_fitted_prompts_go_with_their_own_clip_only(backbone, tmp_path):
    rows = torch.randn(20, WORLD, generator=torch.Generator().manual_seed(0))
    fitted = q16_prompts.fit(rows, torch.arange(20) % 2, fingerprint=backbone.fingerprint, scale=30.0, steps=3)
    fitted.save(tmp_path / "a.safetensors")
    read = q16_prompts.read(tmp_path / "a.safetensors")
    assert torch.equal(read.vectors, fitted.vectors)
    assert (read.scale, read.fingerprint) == (30.0, backbone.fingerprint)
    found = Q16(clip=models.clip(), prompts=tmp_path / "a.safetensors").identity()
    assert found["sha256"] == read.sha256
    assert found["clip"] == {
        "source": "a CLIPModel", "fingerprint": backbone.fingerprint, "original": "the world's own CLIP"
    }  # fmt: skip
    with pytest.raises(
        BadInputError, match=f"fitted on this CLIP .*got some of another one \\({read.fingerprint[:12]}"
    ):
        Q16(clip=tiny(WORLD, 16, 64), prompts=read, original=True)


# --- the CLIP --------------------------------------------------------------------------------------------------------
def test_both_backends_see_the_same(backbone):
    other = q16_backbone.load("none", backend="open_clip")
    some = pictures("val", 6, 0)
    assert other.fingerprint == backbone.fingerprint == q16_backbone.load(models.clip()).fingerprint
    assert other.shape == backbone.shape == (WORLD, 16, 64)
    assert torch.allclose(other.embed(some), backbone.embed(some), atol=1e-4)
    assert not torch.allclose(other.embed(some), backbone.embed(some[::-1]), atol=1e-2)  # the twin


def folder_with_delta(tmp_path):
    models.clip().save_pretrained(tmp_path / "made")
    (tmp_path / "made" / "delta.safetensors").write_bytes(b"")
    return str(tmp_path / "made")


def stripped_folder(tmp_path):
    loading.load("pictoworld", tower="vision", projection=True).save_pretrained(tmp_path / "stripped")
    return str(tmp_path / "stripped")


SAFE = {
    "shipped": lambda _: "pictoworld",
    "catalog": lambda _: "safe-clip-vit-l-14",
    "its repository": lambda _: "aimagelab/safeclip_vit-l_14",
    "tower": lambda _: loading.load("pictoworld/safe-clip", tower="vision", projection=True),
    "made here": folder_with_delta,
    "its weights alone": stripped_folder,
}


@pytest.mark.parametrize("name", SAFE)
@pytest.mark.parametrize("original", [True, False])
def test_a_safe_tower_is_refused_whatever_its_user_says(name, original, tmp_path):
    with pytest.raises(BadInputError, match="expected an original CLIP for the Q16 judge, got a safe encoder"):
        q16_backbone.load(SAFE[name](tmp_path), original=original)


def test_a_published_safe_towers_bytes_are_known_again(tmp_path):
    tiny().save_pretrained(tmp_path / "copy")
    digest = q16_backbone.sha256_file(tmp_path / "copy" / "model.safetensors")
    for repo, message in (("aimagelab/safeclip_vit-l_14", "bytes are those of aimagelab"), (None, "cannot know")):
        if repo:
            trust.record(repo, None, trust.Entry("0" * 40, (), {"model.safetensors": digest}))
        else:
            trust.path().unlink()  # the twin
        with pytest.raises(BadInputError, match=message):
            q16_backbone.load(tmp_path / "copy")


def test_a_copy_of_openais_bytes_is_known_as_such(tmp_path):
    tiny().save_pretrained(tmp_path / "copy")
    digest = q16_backbone.sha256_file(tmp_path / "copy" / "model.safetensors")
    trust.record(q16_backbone.ORIGINALS["ViT-L-14"], None, trust.Entry("0" * 40, (), {"model.safetensors": digest}))
    assert q16_backbone.load(tmp_path / "copy").original == "the bytes of openai/clip-vit-large-patch14"


def test_a_folder_that_only_has_openais_name_is_not_openais(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path / "openai" / "clip-vit-large-patch14")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="cannot know that openai/clip-vit-large-patch14 is an original CLIP"):
        q16_backbone.load("openai/clip-vit-large-patch14")


def test_a_folder_of_open_clip_is_read(tmp_path):
    model = loading.load("none", backend="open_clip")
    config = {"model_cfg": q16_backbone.openclip.model_config(models.clip().config),
              "preprocess_cfg": model.visual.preprocess_cfg}  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()},
              tmp_path / "open_clip_model.safetensors")  # fmt: skip
    assert q16_backbone.load(tmp_path).original == "the world's own CLIP"


def test_a_clip_of_unknown_origin_needs_its_users_word():
    with pytest.raises(BadInputError, match=r"cannot know that a CLIPVision.* is an original CLIP.*original=True"):
        q16_backbone.load(tiny())
    assert q16_backbone.load(tiny(), original=True).original == "as its user says"


def test_what_is_no_clip_is_refused():
    with pytest.raises(BadInputError, match="expected a CLIP with a vision tower and its projection, got a Linear"):
        q16_backbone.load(torch.nn.Linear(2, 2), original=True)


def test_without_the_weights_it_says_what_is_missing(tmp_path):
    np.save(tmp_path / "a.npy", pair(768).numpy())
    with pytest.raises(OfflineError, match=r"the Q16 judge needs the weights of openai/clip-vit-large-patch14"):
        Q16(prompts=tmp_path / "a.npy")


def test_prompts_of_another_model_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", pair(768).numpy())
    with pytest.raises(BadInputError, match=r"expected the original ViT-L-14 .*got a CLIP of \(128, 16, 64\)"):
        Q16(clip="none", prompts=tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", pair(512).numpy())
    with pytest.raises(BadInputError, match=r"expected prompts \(2, 768\) for this CLIP, got \(2, 512\)"):
        Q16(clip=tiny(), prompts=tmp_path / "b.npy", original=True)
    with pytest.raises(BadInputError, match=r"expected the original ViT-B-16 .*patches of 16"):  # 32 has the same width
        Q16(model="ViT-B-16", clip=tiny(512, 32), prompts=tmp_path / "b.npy", original=True)
    with pytest.raises(BadInputError, match="expected model ViT-L-14, ViT-B-16, ViT-B-32, got 'ViT-H-14'"):
        Q16(model="ViT-H-14")


@pytest.mark.parametrize(
    ("model", "sizes"), [("ViT-L-14", (768, 14)), ("ViT-B-16", (512, 16)), ("ViT-B-32", (512, 32))]
)
def test_the_authors_prompts_go_with_each_of_their_models(model, sizes):
    file = SHARED / "q16" / "q16_prompts.safetensors"
    if not file.is_file():
        pytest.skip(f"no prompts at {file}; SAFEENCODERS_SHARED_DATA says where they are")
    judge = Q16(model=model, clip=tiny(*sizes), prompts=file, original=True)
    verdicts = judge([Image.new("CMYK", (300, 200)), Image.new("L", (9, 9))])
    assert all(0 <= verdict.score <= 1 for verdict in verdicts)
    assert torch.equal(judge.prompts.vectors, load_file(file)[model].float())


# --- the files -------------------------------------------------------------------------------------------------------
def pickled(array, protocol=3):
    """As numpy 1 wrote it, of which the authors' file is."""
    data = pickle.dumps(array, protocol)
    if protocol == 3:
        return data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    return data


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 768), (1, 2, 512)])
def test_a_pickled_array_is_read_as_it_is(protocol, dtype, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(dtype)
    found = read_array(pickled(array, protocol))
    assert found.dtype == dtype
    assert np.array_equal(found, array)


def test_every_form_of_file_gives_the_same_prompts(tmp_path):
    vectors = pair().half()
    np.save(tmp_path / "a.npy", vectors.numpy())
    save_file({"ViT-L-14": vectors, "ViT-B-16": vectors * 2}, tmp_path / "a.safetensors")
    (tmp_path / "a.p").write_bytes(pickled(vectors.numpy()))
    (tmp_path / "b.p").write_bytes(pickled(vectors.numpy()[None]))
    for name in ("a.npy", "a.safetensors", "a.p", "b.p"):
        assert torch.equal(q16_prompts.read(tmp_path / name).vectors, vectors.float())
    assert torch.equal(q16_prompts.read(tmp_path / "a.safetensors", "ViT-B-16").vectors, 2 * vectors.float())


class Touch:
    """Pickled, it is a call that leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


class Crooked(np.ndarray):
    """Pickled, it is numpy's own function with another class."""


def fortran():
    return np.asfortranarray(np.ones((2, 3), np.float16))


EVIL = {
    "a call": lambda path: pickle.dumps(Touch(path), 3),
    "a call in a list": lambda path: pickle.dumps([np.ones((2, 3)), Touch(path)], 4),
    "a call in an array of objects": lambda path: pickle.dumps(np.array([[Touch(path)]], dtype=object), 3),
    "another class": lambda _: pickle.dumps(np.ones((2, 3)).view(Crooked), 3),
    "integers": lambda _: pickled(np.ones((2, 3), int)),
    "columns first": lambda _: pickled(fortran()),
    "another shape": lambda _: pickled(np.ones((2, 768), np.float16)).replace(b"M\x00\x03", b"M\x00\x04"),
    "protocol 0": lambda _: pickle.dumps(np.ones((2, 3)), 0),
    "cut": lambda _: pickled(np.ones((2, 768), np.float16))[:900],
    "empty": lambda _: b"",
    "text": lambda _: b"no pickle",
    "a stack that is empty": lambda _: b"\x80\x03R.",
    "two values": lambda _: b"\x80\x03NN.",
}


@pytest.mark.parametrize("name", EVIL)
def test_a_pickle_of_anything_else_is_refused_and_not_run(name, tmp_path):
    trace = tmp_path / "trace"
    data = EVIL[name](trace)
    (tmp_path / "evil.p").write_bytes(data)
    with pytest.raises(BadInputError, match=r"one numpy array of floats in .*nothing of it was run"):
        q16_prompts.read(tmp_path / "evil.p")
    assert not trace.exists()
    if "call" in name:  # the twin: an ordinary reader runs it
        pickle.load(io.BytesIO(data))  # noqa: S301  our own
        assert trace.is_dir()


WRONG = {
    "nan.npy": lambda path: np.save(path, np.full((2, 4), np.nan)),
    "three.npy": lambda path: np.save(path, np.ones((3, 4))),
    "zero.npy": lambda path: np.save(path, np.zeros((2, 4))),
    "objects.npy": lambda path: np.save(path, np.array([{}]), allow_pickle=True),
    "cut.npy": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"),
    "other.safetensors": lambda path: save_file({"other": torch.ones(2, 4)}, path),
    "cut.safetensors": lambda path: path.write_bytes(b"\x00"),
    "scale.safetensors": lambda path: save_file({"prompts": torch.ones(2, 4)}, path, metadata={"scale": "-1"}),
    "absent.npy": lambda _: None,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_without_a_pair_is_refused(name, tmp_path):
    WRONG[name](tmp_path / name)
    with pytest.raises(BadInputError, match=r"expected .*" + name):
        q16_prompts.read(tmp_path / name)


# --- the authors' own ------------------------------------------------------------------------------------------------
def test_the_authors_pickle_is_held_to_its_recorded_hash(monkeypatch):
    file = SHARED / "q16" / "q16_prompts_ViT-L-14.npy"
    if not file.is_file():
        pytest.skip(f"no prompts at {file}; SAFEENCODERS_SHARED_DATA says where they are")
    asked = []
    monkeypatch.setattr(q16_prompts, "_download", lambda url: asked.append(url) or pickled(np.load(file)))
    for _ in range(2):  # the second time from the cache
        found = q16_prompts.read(q16_prompts.public())
    assert torch.equal(found.vectors, torch.from_numpy(np.load(file)).float())
    assert len(asked) == 1
    assert asked[0].startswith("https://")
    assert asked[0].endswith("/data/ViT-L-14/prompts.p")
    q16_prompts.public().write_bytes(b"changed")
    with pytest.raises(IntegrityError, match="was changed"):
        q16_prompts.public()


def test_other_bytes_than_the_recorded_are_not_kept(monkeypatch):
    monkeypatch.setattr(q16_prompts, "_download", lambda _: pickled(pair(768).numpy()))
    with pytest.raises(IntegrityError, match="9b6c4118"):
        q16_prompts.public()
    assert not list(trust.folder().rglob("*.p"))


def test_what_nobody_could_look_up_is_trusted_at_first_use(monkeypatch):
    monkeypatch.setattr(q16_prompts, "_download", lambda _: pickled(pair(512).numpy()))
    place = q16_prompts.public("ViT-B-16")
    assert torch.equal(q16_prompts.read(place).vectors, pair(512))
    place.unlink()
    monkeypatch.setattr(q16_prompts, "_download", lambda _: pickled(pair(512, seed=1).numpy()))
    with pytest.raises(IntegrityError):
        q16_prompts.public("ViT-B-16")


def test_offline_it_says_what_to_do():
    with pytest.raises(OfflineError, match=r"offline mode is on \(HF_HUB_OFFLINE\).*give a local \.npy"):
        q16_prompts.public()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (q16_prompts.urllib.error.HTTPError("u", 404, "gone", None, None), DownloadError, "the server answered 404"),
        (q16_prompts.urllib.error.URLError("no route"), OfflineError, "no route"),
        (io.BytesIO(bytes(q16_prompts._LARGEST + 1)), DownloadError, "got more than 1,048,576 bytes"),
    ],
)
def test_a_download_that_fails_says_why(answer, error, message, monkeypatch):
    def opened(*_, **__):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(q16_prompts.urllib.request, "urlopen", opened)
    with pytest.raises(error, match=message):
        q16_prompts.public()
