"""Redirecting encoders: data, edits, objectives, one loop, and the recipes that made the published weights."""

if not __name__.startswith("safeencoders."):
    raise ImportError(
        "the top-level folder 'training' is the package 'safeencoders.training': "
        "write 'import safeencoders.training', so that there is never a second copy of it in one process."
    )
