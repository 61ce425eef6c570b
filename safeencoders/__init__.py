"""Safer drop-in replacements for the CLIP encoders inside text-to-image and vision-language models.

Nothing heavy is imported here: each public name is looked up on first use (PEP 562).
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "coverage": "safeencoders.integrations.protection:coverage",
    "explain": "safeencoders.evaluation.explaining:explain",
    "info": "safeencoders.catalog:info",
    "list_encoders": "safeencoders.catalog:list_encoders",
    "load": "safeencoders.loading:load",
    "protect": "safeencoders.integrations.protection:protect",
    "selfcheck": "safeencoders.integrations.protection:selfcheck",
    "unprotect": "safeencoders.integrations.protection:unprotect",
    "verify": "safeencoders.integrations.protection:verify",
}

__all__ = ["__version__", *_LAZY]  # noqa: PLE0604


def __getattr__(name: str) -> object:
    """Import a public name on first use and keep it, so that the second use costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module 'safeencoders' has no attribute {name!r}; it has: {', '.join(sorted(_LAZY))}")
    module, _, attribute = _LAZY[name].partition(":")
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, the lazy ones too."""
    return sorted({*globals(), *_LAZY})
