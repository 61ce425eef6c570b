"""Hosts of an encoder (diffusers, LLaVA, open_clip): what they hold, how to swap it, how to undo."""

if not __name__.startswith("safeencoders."):
    raise ImportError(
        "the top-level folder 'integrations' is the package 'safeencoders.integrations': "
        "write 'import safeencoders.integrations', so that there is never a second copy of it in one process."
    )
