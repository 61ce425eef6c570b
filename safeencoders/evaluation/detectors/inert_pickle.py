"""One numpy array out of a pickle, of which nothing is run.

A pickle is a program: ``pickle.load`` calls what it names. A reader that admits only numpy's names would still hand
numpy a stranger's arguments, whose ``__setstate__`` was never meant for them. So the opcodes are read as data
(``pickletools.genops``) into inert values, and the one tree that numpy writes for an array of floats is recognised;
any other is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safeencoders.errors import BadInputError

_FLOATS = {"f2": np.float16, "f4": np.float32, "f8": np.float64}
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "BININT", "BININT1", "BININT2", "SHORT_BINBYTES", "BINBYTES", "BINUNICODE", "SHORT_BINUNICODE",
}  # fmt: skip
_SILENT = {"PROTO", "FRAME", "STOP"}
_GETS = {"BINGET", "LONG_BINGET"}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MARK = object()  # the start of a tuple on the stack
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


@dataclass
class _Name:
    """What the pickle would import."""

    name: str


@dataclass
class _Call:
    """What the pickle would call, and the state it would set on the result."""

    function: Any
    arguments: Any
    state: Any = None


def read_array(data: bytes, name: object = "the pickle") -> NDArray[np.floating[Any]]:
    """Return the one array of floats that a pickle of protocol 3 or later holds, as numpy writes it.

    Args:
        data: of the file.
        name: of it, for messages.

    Raises:
        BadInputError: it is no pickle, damaged, or would build anything else; nothing of it was run.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        (tree,) = machine.stack
        return _array(tree)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"expected a pickle of one numpy array of floats in {name}, got something else or a damaged file "
            f"({error}); nothing of it was run. Use a .npy or .safetensors file"
        ) from None


class _Machine:
    """The stack and the memo of a pickle, with inert values in the place of what would be imported and called."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, code: str, argument: Any) -> None:  # noqa: ANN401  of any opcode
        if code in _VALUES:
            self.stack.append(_VALUES[code])
        elif code in _LITERALS:
            self.stack.append(argument)
        elif code in _TUPLES:
            self._tuple(len(self.stack) - _TUPLES[code], dropped=0)
        elif code in _GETS:
            self.stack.append(self._memo[argument])
        elif code in _PUTS:
            self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
        elif code not in _SILENT:
            act = _ACTS.get(code)
            if act is None:
                raise ValueError(f"it has the opcode {code}")
            act(self, argument)

    def _tuple(self, start: int, *, dropped: int) -> None:
        self.stack[start - dropped :] = [tuple(self.stack[start:])]

    def close(self, _: Any) -> None:  # noqa: ANN401
        self._tuple(len(self.stack) - self.stack[::-1].index(_MARK), dropped=1)

    def open(self, _: Any) -> None:  # noqa: ANN401
        self.stack.append(_MARK)

    def name(self, argument: str) -> None:
        self.stack.append(_Name(argument.replace(" ", ".")))

    def name_on_stack(self, _: Any) -> None:  # noqa: ANN401
        attribute, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_Name(f"{module}.{attribute}"))

    def call(self, _: Any) -> None:  # noqa: ANN401
        arguments = self.stack.pop()
        self.stack.append(_Call(self.stack.pop(), arguments))

    def state(self, _: Any) -> None:  # noqa: ANN401
        state = self.stack.pop()
        self.stack[-1].state = state


_ACTS: dict[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": _Machine.close,
    "MARK": _Machine.open,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.state,
}


def _array(tree: Any) -> NDArray[np.floating[Any]]:  # noqa: ANN401
    """Recognise ``_reconstruct(ndarray, (0,), b"b")`` with the state (1, shape, dtype, fortran, bytes)."""
    _expect(isinstance(tree, _Call) and tree.function in [_Name(f"{one}._reconstruct") for one in _MODULES])
    _expect(tree.arguments == (_Name("numpy.ndarray"), (0,), b"b"))
    version, shape, kind, fortran, content = tree.state
    _expect(version == 1 and fortran is False and isinstance(content, bytes))
    _expect(isinstance(kind, _Call) and kind.function == _Name("numpy.dtype") and kind.arguments[1:] == (False, True))
    _expect(kind.state[1] == "<" and all(type(size) is int and size > 0 for size in shape))
    dtype = np.dtype(_FLOATS[kind.arguments[0]])
    _expect(int(np.prod(shape, dtype=object)) * dtype.itemsize == len(content))
    return np.frombuffer(content, dtype.newbyteorder("<")).reshape(shape).astype(dtype)


def _expect(right: object) -> None:
    if not right:
        raise ValueError("it would build something else")
