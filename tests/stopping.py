"""What a guard must do, for the tests of every kind of host."""

import pytest

from safeencoders.errors import BypassError


def stopped(policy, act, events, hole):
    """Do what the guard must see: under "strict" it is refused, under "warn" it is told; return the last event."""
    if policy == "strict":
        with pytest.raises(BypassError) as caught:
            act()
        assert caught.value.hole == hole
    else:
        act()
    assert [event.hole for event in events if event.action != "noted"] == [hole]
    return events[-1]
