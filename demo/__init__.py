"""The demo: a small app that uses the public interface only."""

if not __name__.startswith("safeencoders."):
    raise ImportError(
        "the top-level folder 'demo' is the package 'safeencoders.demo': "
        "write 'import safeencoders.demo', so that there is never a second copy of it in one process."
    )
