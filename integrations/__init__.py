"""Hosts of an encoder (diffusers, LLaVA, open_clip): what they hold, how to swap it, how to undo."""

if not __name__.startswith("safeencoders."):
    raise ImportError(
        "the top-level folder 'integrations' is the package 'safeencoders.integrations': "
        "write 'import safeencoders.integrations', so that there is never a second copy of it in one process."
    )

from safeencoders.integrations.host import Host
from safeencoders.registry import Registry

hosts: Registry[Host] = Registry(
    "host",
    {
        "diffusers": "safeencoders.integrations.diffusers:DiffusersHost",
        "llava": "safeencoders.integrations.llava:LlavaHost",
        "open_clip": "safeencoders.integrations.open_clip_host:OpenClipHost",
    },
)
