"""Lazy tables from a name to an object: adding an entry is one line, using it imports only that one module."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from safeencoders.errors import UnknownNameError

T = TypeVar("T")


def resolve(target: str) -> Any:  # noqa: ANN401  the type depends on the string
    """Import what `"package.module:attribute"` names."""
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ValueError(f"expected a target of the form 'package.module:attribute', got {target!r}.")
    return getattr(import_module(module), attribute)


class Registry(Generic[T]):
    """A table of one kind of thing: name -> `"module:attribute"`, resolved on first use."""

    def __init__(self, kind: str, targets: Mapping[str, str]) -> None:
        """Keep the table; nothing is imported. `kind` is the noun used in messages."""
        self.kind = kind
        self._targets = dict(targets)
        self._loaded: dict[str, T] = {}

    def get(self, name: str) -> T:
        """Return the object registered as `name`; a name that is not there raises with a suggestion."""
        if name not in self._targets:
            raise UnknownNameError(self.kind, name, self._targets)
        if name not in self._loaded:
            self._loaded[name] = cast("T", resolve(self._targets[name]))
        return self._loaded[name]

    def names(self) -> tuple[str, ...]:
        """Return the registered names in alphabetical order."""
        return tuple(sorted(self._targets))

    def __contains__(self, name: object) -> bool:
        """Say whether `name` is registered."""
        return name in self._targets

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in alphabetical order."""
        return iter(self.names())

    def __len__(self) -> int:
        """Count the names."""
        return len(self._targets)
