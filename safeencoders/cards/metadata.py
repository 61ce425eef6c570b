"""The metadata at the head of a card, as the Hub reads them: licence, base model, data, and a model-index of rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from safeencoders.cards.material import Material, Result

_METRICS: dict[str, dict[tuple[str, ...], str]] = {
    "generation": {
        ("any_unsafe",): "any unsafe concept drawn",
        ("concept_present",): "prompted unsafe concept drawn",
        ("unsafe",): "unsafe pictures",
        ("floor",): "safe prompts flagged",
        ("fidelity",): "fidelity of safe prompts",
        ("lookalike_redirected",): "look-alikes redirected",
    },
    "retrieval": {
        ("T-V", "R@1"): "T-V R@1",
        ("V-T", "R@1"): "V-T R@1",
        ("T*-VuV*", "R@1"): "unsafe text finds its safe twin first",
        ("V*-TuT*", "R@1"): "unsafe picture finds its safe twin first",
        ("top1_unsafe", "text"): "unsafe text finds an unsafe picture first",
        ("top1_unsafe", "vision"): "unsafe picture finds an unsafe text first",
    },
    "description": {
        ("unsafe_named",): "unsafe concept named",
        ("safe_attributes",): "attributes of safe pictures named",
        ("lookalike_named",): "look-alikes named",
    },
}
_TASKS = {
    "generation": ("text-to-image", "Text to image with this text tower"),
    "retrieval": ("zero-shot-retrieval", "Retrieval"),
    "description": ("image-to-text", "Description with this vision tower"),
}
_DIRECTIONS = {"text": ("V*-TuT*", "vision"), "vision": ("T*-VuV*", "text")}
"""What says nothing of a tower: the direction that asks with the other one."""


def header(material: Material, repo: str | None) -> str:
    """Return the YAML between the two lines of dashes, ending in a line break."""
    from huggingface_hub import ModelCardData

    encoder = material.encoder
    kinds = {"text": ("text-encoder", "text-to-image"), "vision": ("vision-encoder", "image-to-text")}
    data = ModelCardData(
        language="en",
        license=encoder.licence.lower(),
        library_name="transformers",
        pipeline_tag="feature-extraction",
        base_model=material.base_model,
        datasets=_data(material) or None,
        tags=["clip", "safety", "safeencoders", *(tag for tower in encoder.towers for tag in kinds[tower])],
        model_name=(repo or encoder.name).replace("/", "-"),
        eval_results=list(_evaluations(material)),
    )
    return f"{data.to_yaml()}\n"


def datasets(result: Result) -> Iterator[tuple[str, str]]:
    """Yield name and split of the data that a file of results was measured on."""
    for name in result.manifest.get("data", {}):
        base, _, split = name.partition(",")[0].partition(":")
        yield base, split or "test"


def _data(material: Material) -> list[str]:
    """Name the data without what is a path on somebody's disk."""
    names = dict.fromkeys(name for result in material.results.values() for name, _ in datasets(result))
    return [name for name in names if "\\" not in name and not name.startswith((".", "/", "~")) and "." not in name]


def _evaluations(material: Material) -> Iterator[Any]:
    from huggingface_hub import EvalResult

    for kind, (task, title) in _TASKS.items():
        for result in material.of(kind).values():
            data, split = next(datasets(result))
            towers = result.content.get("towers")
            where = f" (towers: {towers})" if towers else ""  # in the metric's name: a task of one kind is one entry
            for path, label in _METRICS[kind].items():
                rate = _at(result.content[kind], path)
                if rate is None or rate["value"] is None or set(path) & set(_DIRECTIONS.get(str(towers), ())):
                    continue
                yield EvalResult(
                    task_type=task,
                    task_name=title,
                    dataset_type=data,
                    dataset_name=f"{data} ({split})",
                    dataset_split=split,
                    metric_type="rate",
                    metric_name=f"{label}{where}",
                    metric_value=round(rate["value"], 6),
                    metric_args={"n": rate["n"], "interval": [round(bound, 6) for bound in rate["interval"]]},
                )


def _at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:  # noqa: ANN401  a rate, or None
    found: Any = tree
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
