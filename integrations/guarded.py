"""The class of a guarded instance: a subclass of the host's own under the same name, which asks the guard first."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from safeencoders.errors import BypassError, HostError
from safeencoders.integrations.arguments import added_tokens, bound
from safeencoders.integrations.guard import Guard

KEY = "_safeencoders_guard"
_ENCODES = ("encode_prompt", "_encode_prompt", "encode_image", "_encode_image", "get_image_features",
            "get_video_features")  # fmt: skip
_REGISTERS = ("register_modules", "register_components", "update_components")


def attach(host: Any, guard: Guard) -> None:  # noqa: ANN401  any host
    """Put the guard between the host and its callers; the host's attributes stay as they are."""
    host.__dict__[KEY] = guard
    kind: Any = type(host)
    host.__class__ = _class(kind, guard.kind.calls)
    _bind(host, kind, type(host))


def detach(host: Any) -> None:  # noqa: ANN401
    """Make the host an instance of its plain class again."""
    guard: Guard = host.__dict__.pop(KEY)
    guard.close()
    kind, host.__class__ = type(host), type(host).__bases__[0]
    _bind(host, kind, type(host))


def _bind(host: Any, old: Any, new: Any) -> None:  # noqa: ANN401
    """Have the hooks of a device map, which keep the forward of the class they met, call that of another one."""
    kept = vars(host).get("_old_forward")
    if inspect.ismethod(kept) and kept.__self__ is host and kept.__func__ is old.forward:
        vars(host)["_old_forward"] = types.MethodType(new.forward, host)


def guard_of(host: Any) -> Guard | None:  # noqa: ANN401
    """Return the host's guard, or None."""
    found: Guard | None = getattr(host, "__dict__", {}).get(KEY)
    return found


@functools.cache
def _class(base: type, calls: tuple[str, ...]) -> type:
    """Return the guarded form of a class; it has the base's name, so what is saved names the plain class."""
    model = _is_module(base)
    members: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__new__": _plain_instance(base),
        "__setattr__": _set_in_model if model else _set,
        "__deepcopy__": _deepcopy,
        "__reduce_ex__": _reduce,
    }
    if isinstance(inspect.getattr_static(base, "components", None), property):
        members["components"] = _components(base)
    if hasattr(base, "save_pretrained"):
        members["save_pretrained"] = _saving(base.save_pretrained)
    members |= {name: _encoding(getattr(base, name)) for name in _ENCODES if hasattr(base, name)}
    members |= {name: _registering(getattr(base, name)) for name in _REGISTERS if hasattr(base, name)}
    if hasattr(base, "load_textual_inversion"):
        members["load_textual_inversion"] = _loading_tokens(base.load_textual_inversion)
    for name in ("load_lora_weights", "fuse_lora"):
        if hasattr(base, name):
            members[name] = _loading_lora(getattr(base, name))
    members |= {name: _called(base, name) for name in calls if hasattr(base, name)}
    if model:
        members["_apply"] = _converting(base)
    return type(base.__name__, (base,), members)


def _plain_instance(base: Any) -> Callable[..., Any]:  # noqa: ANN401  a class
    """Make ``type(pipe)(...)``, and so ``type(pipe).from_pipe(...)``, give an instance of the plain class."""

    def new(_kind: type, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if _is_module(base) and not arguments and not options:  # DataParallel makes replicas so
            return base.__new__(base)
        return base(*arguments, **options)

    return new


def _guard(host: Any) -> Guard:  # noqa: ANN401
    found: Guard = host.__dict__[KEY]
    return found


def _is_module(base: type) -> bool:
    return issubclass(base, nn.Module)


def _called(base: Any, name: str) -> Callable[..., Any]:  # noqa: ANN401
    """Check a call before it is made, compiled or not; one of a model inside of another was checked with it."""
    plain, model = getattr(base, name), _is_module(base)
    named = base.forward if model and name == "__call__" else plain  # a module's __call__ takes whatever forward takes

    @functools.wraps(plain)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        guard = guard_of(self)
        if guard is None or guard.inside:  # none: somebody kept the method from before unprotect
            return plain(self, *arguments, **options)
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]  # a trace has no guard
            return plain(self, *arguments, **options)
        if inspect.isfunction(options.get("callback_on_step_end")) or inspect.ismethod(
            options.get("callback_on_step_end")
        ):
            options["callback_on_step_end"] = guard.watched_callback(options["callback_on_step_end"])
        with guard.calling(self, bound(named, (self, *arguments), options), name):
            return plain(self, *arguments, **options)

    uncompiled: Any = torch.compiler.disable  # the call alone: what it leads to may be compiled
    return uncompiled(call, recursive=False) if model else call


def _encoding(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def encode(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        guard = guard_of(self)
        if guard is None:
            return plain(self, *arguments, **options)
        named = bound(plain, (self, *arguments), options)
        return guard.encoding(self, named, lambda: plain(self, *arguments, **options))

    return encode


def _components(base: Any) -> property:  # noqa: ANN401
    def components(self: Any) -> Any:  # noqa: ANN401
        if sys._getframe(1).f_code.co_name == "from_pipe":  # noqa: SLF001  the one way to tell who asks
            _guard(self).derived("another pipeline is being made from this one")
        return base.components.fget(self)

    return property(components, doc=base.components.__doc__)


def _saving(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def save(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        found = plain(self, *arguments, **options)
        _guard(self).derived("a copy was saved")
        return found

    return save


def _registering(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def register(self: Any, **modules: Any) -> Any:  # noqa: ANN401
        with _guard(self).admitting(self, modules):
            return plain(self, **modules)

    return register


def _loading_tokens(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def load(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        guard = _guard(self)
        before = {name: set(added_tokens(slot.tokenizer)) for name, slot in guard.slots.items()}

        def undo() -> None:
            for name, slot in guard.slots.items():
                new = [token for token in added_tokens(slot.tokenizer) if token not in before[name]]
                if new:
                    self.unload_textual_inversion(new, tokenizer=slot.tokenizer, text_encoder=slot.tower)

        return guard.screened(self, 4, lambda: plain(self, *arguments, **options), undo)

    return load


def _loading_lora(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def load(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        before = _adapters(self)

        def undo() -> None:
            if plain.__name__ == "fuse_lora":
                parts = options.get("components")
                self.unfuse_lora(**({"components": parts} if parts else {}))
            elif not before:
                self.unload_lora_weights()
            else:
                self.delete_adapters(sorted(_adapters(self) - before))

        return _guard(self).screened(self, 5, lambda: plain(self, *arguments, **options), undo)

    return load


def _adapters(host: Any) -> set[str]:  # noqa: ANN401
    return {name for names in host.get_list_adapters().values() for name in names}


def _set(self: Any, name: str, value: Any) -> None:  # noqa: ANN401
    guard = self.__dict__.get(KEY)
    if guard is not None:
        guard.replacing(self, name, value)
    super(type(self), self).__setattr__(name, value)


def _set_in_model(self: Any, name: str, value: Any) -> None:  # noqa: ANN401
    """Set an attribute of a model, where a module or weight may be what a tower is made of, and look at it in place."""
    place, guard = super(type(self), self).__setattr__, self.__dict__.get(KEY)
    if guard is None or not isinstance(value, nn.Module | Tensor | None):
        place(name, value)
        return
    there, before = hasattr(self, name), getattr(self, name, None)
    place(name, value)
    try:
        guard.placed(self)
    except BypassError:
        if there:
            place(name, before)
        else:
            delattr(self, name)
        raise


def _converting(base: Any) -> Callable[..., Any]:  # noqa: ANN401
    plain = base._apply  # noqa: SLF001  where to, half, cuda and their like all lead

    @functools.wraps(plain)
    def convert(self: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        return _guard(self).converting(self, lambda: plain(self, *arguments, **options))

    return convert


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:  # noqa: ANN401
    """Copy the host with its safe towers; the copy is guarded too, and only the original can be unprotected."""
    guard: Guard = _guard(self)
    base: Any = type(self).__bases__[0]
    twin = base.__new__(base)
    memo[id(self)] = twin
    own = {name: value for name, value in self.__dict__.items() if name not in {KEY, "_compiled_call_impl"}}
    twin.__dict__.update(copy.deepcopy(own, memo))
    attach(twin, guard.twin(twin))
    return twin


def _reduce(self: Any, _protocol: object) -> Any:  # noqa: ANN401
    raise HostError(
        f"expected something to pickle, got a guarded {type(self).__name__}, whose guard would be lost: save it with "
        "save_pretrained, or its state_dict, and protect it again where it is loaded, or unprotect it first"
    )
