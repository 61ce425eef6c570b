"""The objectives by name: one small file per method, each a sum of shared terms."""

from safeencoders.registry import Registry

objectives = Registry(
    "objective",
    {
        "pictoworld": "safeencoders.training.objectives.pictoworld:objective",
        "safe-clip": "safeencoders.training.objectives.safe_clip:objective",
    },
)
