"""Models that people have, by their public configurations, and which encoders of the catalog fit their towers.

The sizes are those of each model's published configuration; what is read of a tower was measured on tiny models of the
same classes (tests/integration/test_slots.py, test_llava.py). Whether an encoder fits is asked of the catalog.
"""

from __future__ import annotations

from dataclasses import dataclass

from safeencoders import catalog
from safeencoders.catalog import Encoder, TowerName


@dataclass(frozen=True)
class Place:
    """A tower of a model: its component, its kind, what the model reads of it, its configuration."""

    slot: str
    kind: TowerName
    reads: tuple[str, ...]
    config: dict[str, object]
    projection: bool = False


@dataclass(frozen=True)
class Model:
    """A family of models with one layout.

    Attributes:
        name: as people call it.
        kind: the class of diffusers or transformers that runs it.
        places: its CLIP towers.
        others: what else reads prompts or pictures, which no encoder here protects.
    """

    name: str
    kind: str
    places: tuple[Place, ...]
    others: str = ""


def _text(width: int, layers: int, heads: int, act: str, projection: int) -> dict[str, object]:
    return {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
            "intermediate_size": 4 * width, "hidden_act": act, "projection_dim": projection, "vocab_size": 49408,
            "max_position_embeddings": 77}  # fmt: skip


def _vision(width: int, layers: int, act: str, projection: int, image: int) -> dict[str, object]:
    return {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 16,
            "intermediate_size": 4 * width, "hidden_act": act, "projection_dim": projection, "image_size": image,
            "patch_size": 14}  # fmt: skip


L_TEXT, G_TEXT = _text(768, 12, 12, "quick_gelu", 768), _text(1280, 32, 20, "gelu", 1280)
SD2_TEXT = _text(1024, 23, 16, "gelu", 512)
IP_ADAPTER = Place("image_encoder", "vision", ("projected",), _vision(1280, 32, "gelu", 1024, 224), projection=True)
LLAVA = Place("model.vision_tower", "vision", ("patches",), _vision(1024, 24, "quick_gelu", 768, 336))

MODELS = (
    Model("Stable Diffusion 1.x", "StableDiffusionPipeline", (Place("text_encoder", "text", ("last",), L_TEXT),)),
    Model("Stable Diffusion 2.x", "StableDiffusionPipeline", (Place("text_encoder", "text", ("last",), SD2_TEXT),)),
    Model(
        "Stable Diffusion XL",
        "StableDiffusionXLPipeline",
        (
            Place("text_encoder", "text", ("penultimate",), L_TEXT),
            Place("text_encoder_2", "text", ("penultimate", "projected"), G_TEXT, projection=True),
        ),
    ),
    Model(
        "Stable Diffusion 3, 3.5",
        "StableDiffusion3Pipeline",
        (
            Place("text_encoder", "text", ("penultimate", "projected"), L_TEXT, projection=True),
            Place("text_encoder_2", "text", ("penultimate", "projected"), G_TEXT, projection=True),
        ),
        "text_encoder_3 (T5)",
    ),
    Model("FLUX.1", "FluxPipeline", (Place("text_encoder", "text", ("pooled",), L_TEXT),), "text_encoder_2 (T5)"),
    Model("IP-Adapter with ViT-H", "StableDiffusionPipeline", (IP_ADAPTER,)),
    Model("LLaVA 1.5", "LlavaForConditionalGeneration", (LLAVA,)),
    Model("LLaVA-NeXT", "LlavaNextForConditionalGeneration", (LLAVA,)),
)


def fitting(place: Place) -> tuple[Encoder, ...]:
    """Return the encoders of the catalog that fit a place."""
    return catalog.fitting(place.config, place.kind, projection=place.projection)


def untrained(encoder: Encoder, place: Place) -> tuple[str, ...] | None:
    """Return what the model reads that the encoder was not trained on; None when nobody knows."""
    tower = encoder.tower(place.kind)
    if tower is None or tower.trained_on is None:
        return None
    return tuple(field for field in place.reads if field not in tower.trained_on)
