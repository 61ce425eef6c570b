"""The demo: a small app that uses the public interface only. It sends nothing anywhere."""

import os

if not __name__.startswith("safeencoders."):
    raise ImportError(
        "the top-level folder 'demo' is the package 'safeencoders.demo': "
        "write 'import safeencoders.demo', so that there is never a second copy of it in one process."
    )
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read once, when gradio is imported
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
