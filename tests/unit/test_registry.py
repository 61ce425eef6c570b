"""A registry imports nothing until asked, and a miss helps."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from safeencoders.errors import UnknownNameError
from safeencoders.registry import Registry, resolve

TABLE = {"dumps": "json:dumps", "loads": "json:loads", "broken": "no_such_module_here:thing"}


def test_get_returns_the_registered_object() -> None:
    registry: Registry[Callable[..., Any]] = Registry("codec", TABLE)
    assert registry.get("dumps")([1]) == "[1]"
    assert registry.get("dumps") is registry.get("dumps")


def test_names_are_sorted_and_membership_needs_no_import() -> None:
    registry: Registry[object] = Registry("codec", TABLE)
    assert registry.names() == tuple(registry) == ("broken", "dumps", "loads")
    assert "broken" in registry
    assert "other" not in registry
    assert len(registry) == 3


def test_a_miss_suggests_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown codec 'dump'\. Did you mean 'dumps'\?"):
        Registry[object]("codec", TABLE).get("dump")


def test_later_changes_of_the_table_do_not_reach_the_registry() -> None:
    table = dict(TABLE)
    registry: Registry[object] = Registry("codec", table)
    table.clear()
    assert len(registry) == 3


def test_only_the_entry_asked_for_is_imported() -> None:
    code = (
        "import sys; from safeencoders.registry import Registry\n"
        "r = Registry('x', {'a': 'wave:open', 'b': 'colorsys:rgb_to_hsv'})\n"
        "assert not {'wave', 'colorsys'} & set(sys.modules)\n"
        "r.get('a'); assert 'wave' in sys.modules; assert 'colorsys' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("target", ["json", "json:", ":dumps", ""])
def test_a_malformed_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"package\.module:attribute"):
        resolve(target)
