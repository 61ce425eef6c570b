"""The catalog: literal records, what fits a configuration, and the licence named once."""

import warnings

import pytest
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

import safeencoders
from safeencoders import catalog
from safeencoders.errors import UnknownNameError
from safeencoders.pictoworld import models

PUBLISHED = [encoder.name for encoder in catalog.PUBLISHED]


@pytest.fixture
def sd1():
    """The text encoder of Stable Diffusion 1.x, whose configuration was read on the Hub."""
    return CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                          hidden_act="quick_gelu", projection_dim=768, vocab_size=49408)  # fmt: skip


def names(found):
    return [encoder.name for encoder in found]


def test_every_shipped_tower_and_the_original_are_listed_first_and_names_are_unique():
    listed = safeencoders.list_encoders()
    shipped = {*models.tower_names(), "none"}
    assert set(listed[: len(shipped)]) == shipped
    assert listed[len(shipped) :] == tuple(PUBLISHED)
    assert len(set(listed)) == len(listed)
    assert {"safe-clip-vit-l-14", "safer-clip", "advunlearn-nudity"} <= set(listed)


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in [*models.tower_names(), "none"] for kind in catalog.info(name).towers]
)
def test_the_shapes_of_shipped_towers_are_those_of_their_configurations(name, kind):
    config = safeencoders.load(name, tower=kind).config
    shape = catalog.info(name).tower(kind).shape
    assert shape.fits(config, projection=True)
    assert shape.fits(config.to_dict(), projection=True)


def test_nothing_that_could_not_be_looked_up_is_claimed():
    assert {encoder.revision for encoder in catalog.PUBLISHED} == {None}
    assert {encoder.sha256 for encoder in catalog.PUBLISHED} == {None}
    assert all(encoder.source and encoder.licence for encoder in catalog.encoders().values())


def test_the_default_of_the_literature_is_for_no_commercial_use_and_ours_is_free():
    assert catalog.info("safe-clip-vit-l-14").noncommercial
    assert not catalog.info("advunlearn-nudity").noncommercial
    assert not catalog.info("pictoworld").noncommercial


@pytest.mark.parametrize("name", safeencoders.list_encoders())
def test_a_record_prints_as_a_table_without_python_in_it(name):
    text = str(safeencoders.info(name))
    assert text.startswith(f"{name}\n  method    ")
    assert "None" not in text
    assert "Shape(" not in text
    assert "recorded at first use" in text or name in {*models.tower_names(), "none"}


def test_a_record_says_what_its_training_touched():
    assert "12 layers of width 768, quick_gelu), trained on pooled and projected" in str(
        safeencoders.info("safe-clip-vit-l-14")
    )
    assert "trained on last" in str(safeencoders.info("advunlearn-nudity"))
    assert "(32 layers of width 1280, gelu), trained on unknown" in str(safeencoders.info("safe-clip-sd-2-0"))
    assert "vision (sizes unknown)" in str(safeencoders.info("safer-clip"))


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'safe-clip-vit-l-14'"):
        safeencoders.info("safe-clip-vit-l14")


def test_a_record_is_found_by_its_repository_too():
    assert catalog.find("OPTML-Group/AdvUnlearn/nudity_unlearned") is catalog.find("advunlearn-nudity")
    assert catalog.find("OPTML-Group/AdvUnlearn") is None
    assert catalog.find("aimagelab/safeclip_vit-l_14") is catalog.find("safe-clip-vit-l-14")


# --- what fits ----------------------------------------------------------------------------------------------------


def test_what_fits_a_host_is_found_by_its_configuration_the_broadest_first(sd1):
    found = names(catalog.fitting(sd1, "text"))
    assert found[0] == "safe-clip-vit-l-14"
    assert {"safer-clip", "advunlearn-nudity", "safe-clip-vit-l-14-336"} <= set(found)
    assert not {"safe-clip-vit-h-14", "safe-clip-sd-2-0", "pictoworld"} & set(found)
    ours = ["pictoworld", "pictoworld/safe-clip", "pictoworld/robust"]
    assert names(catalog.fitting(models.clip().config.text_config, "text")) == ours


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 1280},
        {"num_hidden_layers": 11},
        {"num_attention_heads": 16},
        {"intermediate_size": 1024},
        {"hidden_act": "gelu"},
        {"vocab_size": 49000},
        {"max_position_embeddings": 248},
    ],
    ids=str,
)
def test_one_difference_is_enough_not_to_fit(sd1, change):
    assert catalog.fitting(sd1, "text")
    assert catalog.fitting(sd1.to_dict() | change, "text") == ()


def test_the_projection_counts_only_where_there_is_one(sd1):
    other = sd1.to_dict() | {"projection_dim": 512}
    assert catalog.fitting(other, "text")
    assert catalog.fitting(other, "text", projection=True) == ()
    assert catalog.fitting(sd1, "text", projection=True) == catalog.fitting(sd1, "text")


def test_tokens_added_to_a_host_do_not_hide_what_fits(sd1):
    assert catalog.fitting(sd1.to_dict() | {"vocab_size": 49411}, "text") == catalog.fitting(sd1, "text")


def test_the_two_towers_of_stable_diffusion_2_and_of_ip_adapter_are_told_apart():
    sd2 = CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
                         hidden_act="gelu", projection_dim=512, vocab_size=49408)  # fmt: skip
    assert names(catalog.fitting(sd2, "text")) == ["safe-clip-sd-2-0"]
    h = CLIPVisionConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
                         hidden_act="gelu", projection_dim=1024, image_size=224, patch_size=14)  # fmt: skip
    assert names(catalog.fitting(h, "vision", projection=True)) == ["safe-clip-vit-h-14", "safe-clip-sd-2-0"]
    assert catalog.fitting(h.to_dict() | {"image_size": 336}, "vision") == ()


def test_a_tower_whose_sizes_nobody_says_is_never_offered():
    large = CLIPConfig().vision_config.to_dict() | {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14,
             "num_attention_heads": 16, "intermediate_size": 4096, "projection_dim": 768}  # fmt: skip
    assert names(catalog.fitting(large, "vision")) == ["safe-clip-vit-l-14"]


# --- the licence --------------------------------------------------------------------------------------------------


def test_a_non_commercial_licence_is_named_once(monkeypatch):
    monkeypatch.setattr(catalog, "_told", set())
    with pytest.warns(catalog.LicenceWarning, match=r"safe-clip-vit-l-14 are under CC-BY-NC-4\.0: no commercial use"):
        catalog.warn_licence(catalog.info("safe-clip-vit-l-14"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog.warn_licence(catalog.info("safe-clip-vit-l-14"))
        catalog.warn_licence(catalog.info("advunlearn-nudity"))
        catalog.warn_licence(catalog.info("pictoworld"))
