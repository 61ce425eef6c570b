"""What the tests of training share: a CLIP of two layers a tower, and batches for it."""

import pytest
import torch
from fake_hub import FakeHub, aim
from huggingface_hub import close_session
from transformers import CLIPConfig, CLIPModel

from safeencoders.pictoworld import scenes
from safeencoders.pictoworld import tokenizer as world_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return world_tokenizer.build(list(scenes.words()))


@pytest.fixture
def clip(tokenizer):
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": world_tokenizer.CONTEXT}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | text | ids | {"projection_dim": 8, "pad_token_id": tokenizer.eos_token_id},
        vision_config=small | {"image_size": 64, "patch_size": 32, "projection_dim": 8},
        projection_dim=8,
    )
    return CLIPModel(config).eval()


class FixedReader:
    """The same rows at every step, shared out among the processes."""

    def __init__(self, rows):
        self.rows, self.roles = rows, frozenset(rows)

    def batch(self, _step, part=(0, 1)):
        index, processes = part
        return {role: rows.tensor_split(processes)[index] for role, rows in self.rows.items()}


def some_rows(tokenizer, n, benign):
    """Captions of 3 to 12 words and noise for pictures, by role; ``benign`` rows of the look-alike's roles."""
    draw = torch.Generator().manual_seed(n)
    end, start = tokenizer.eos_token_id, tokenizer.bos_token_id

    def captions(count):
        ids = torch.randint(300, 1500, (count, world_tokenizer.CONTEXT), generator=draw)
        lengths = torch.randint(3, 13, (count, 1), generator=draw)
        ids[torch.arange(world_tokenizer.CONTEXT) > lengths] = end
        ids[:, 0] = start
        return ids

    def pictures(count):
        return torch.randn(count, 3, 64, 64, generator=draw)

    rows = {role: captions(n) for role in ("t", "t*", "c")} | {role: pictures(n) for role in ("v", "v*", "vc")}
    return rows | ({"b": captions(benign), "vb": pictures(benign)} if benign else {})


@pytest.fixture
def rows(tokenizer):
    """Give a maker of a batch: ``rows(8)`` has 8 quadruplets and 2 look-alikes, or as many as asked for."""
    return lambda n, benign=None: some_rows(tokenizer, n, n // 4 if benign is None else benign)


@pytest.fixture
def fixed(rows):
    """Give a maker of a reader: ``fixed(8, "t t*")`` has those roles only."""

    def make(n, roles="", benign=None):
        found = rows(n, benign)
        return FixedReader({role: found[role] for role in roles.split()} if roles else found)

    return make


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """Give a Hub on loopback, with this process's huggingface_hub pointed at it and an empty cache."""
    hub = FakeHub()
    aim(monkeypatch, hub, tmp_path / "cache")
    yield hub
    close_session()
    hub.close()


@pytest.fixture
def clip_files(clip, tmp_path):
    """Give the files of the small CLIP as it would lie in a repository."""
    clip.save_pretrained(tmp_path / "published")
    return {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}
