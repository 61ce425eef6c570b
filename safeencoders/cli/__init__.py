"""The command line: thin commands, and the modules that compose sibling layers (quickstart, world build)."""
