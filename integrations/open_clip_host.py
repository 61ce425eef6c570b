"""The open_clip host: the two towers of an open_clip model, exchanged where they lie.

A swap copies weights into the model's own memory (see ``open_clip.view``): it keeps its class, its modules and the
names of its weights, so that whatever loads, saves, compiles or trains it goes on as before. Its projections and logit
scale stay: no training of a tower here moves them.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from safeencoders.errors import FitError, HostError
from safeencoders.integrations import fit
from safeencoders.integrations.open_clip import TOWERS, foreign, part, view
from safeencoders.integrations.slots import Other, Slot
from safeencoders.openclip import CLIP_VOCABULARY, package
from safeencoders.pictoworld import models

if TYPE_CHECKING:
    from torch import Tensor, nn

_TEXT = ("token_embedding", "positional_embedding", "transformer", "ln_final")  # of a CLIP, which holds them itself
_SETTINGS = ("pool_type", "text_pool_type", "eos_id", "text_eos_id")  # what, beside the mask, `foreign` asks of a tower
UNRELATED = 0.7  # of the length of an original's matrices: tuned towers moved by 0.25 and less, unrelated ones by 1.4


class OpenClipHost:
    """An open_clip CLIP or CustomTextCLIP; stateless."""

    calls = ("__call__", "forward", "encode_image", "encode_text", "get_logits", "forward_intermediates")

    @staticmethod
    def accepts(host: Any) -> bool:  # noqa: ANN401  any object
        """Say whether an object is a two-tower model of open_clip; open_clip is not imported for it."""
        module = sys.modules.get("open_clip.model")
        return module is not None and isinstance(host, (module.CLIP, module.CustomTextCLIP))

    @staticmethod
    def slots(host: Any) -> tuple[Slot, ...]:  # noqa: ANN401  an open_clip model
        """List the CLIP towers, "text" and "visual", each as a fresh view of what the model holds now."""
        found = []
        for name, kind in TOWERS.items():
            if foreign(host, name) is None:
                tokenizer = tokenizer_of(host) if name == "text" else None
                found.append(Slot(name, kind, _tower(host, name), projection=False, tokenizer=tokenizer))
        return tuple(found)

    @staticmethod
    def others(host: Any) -> tuple[Other, ...]:  # noqa: ANN401  an open_clip model
        """List the towers that are none of CLIP's: of timm, of transformers, of SigLIP, quantised or sharded ones."""
        reasons = {name: foreign(host, name) for name in TOWERS}
        return tuple(
            Other(name, type(part(host, name)).__name__, TOWERS[name], reason)
            for name, reason in reasons.items()
            if reason is not None
        )

    @staticmethod
    def reads(_host: Any, _slot: Slot) -> tuple[str, ...]:  # noqa: ANN401  an open_clip model
        """Return what an open_clip model takes from a tower: the pooled state, which it projects itself."""
        return ("pooled",)

    @staticmethod
    def held(host: Any, name: str) -> Any:  # noqa: ANN401  an open_clip model
        """Return the view of a tower that was made when its modules and the memory of its weights were last new."""
        known = _views.setdefault(host, {})
        try:
            now = _identity(host, name)
        except AttributeError:  # a part of it is gone
            return None
        if name not in known or known[name][0] != now:
            known[name] = now, view(host, name) if foreign(host, name) is None else object()
        return known[name][1]

    @staticmethod
    def layers(_host: Any, call: str, _arguments: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ANN401
        """Name what forward_intermediates reads: any layer."""
        return ("layers in between",) if call == "forward_intermediates" else ()

    @staticmethod
    def check(host: Any, towers: Mapping[str, nn.Module]) -> None:  # noqa: ANN401  an open_clip model
        """Find everything that can be wrong with putting towers in; nothing is touched.

        Raises:
            HostError: no open_clip model, one without weights, or with a vocabulary whose tokenizer nobody can know.
            FitError: there is no such slot, or a tower does not fit: another class, size, activation, or one that was
                made from another original.
        """
        if not OpenClipHost.accepts(host):
            raise HostError(f"expected an open_clip CLIP or CustomTextCLIP, got {type(host).__name__}")
        if any(value.is_meta for value in host.parameters()):
            raise HostError("the open_clip model is on the meta device: load it with its weights, then protect it")
        found = {slot.name: slot for slot in OpenClipHost.slots(host)}
        if not towers or not set(towers) <= set(found):
            wrong = sorted(set(towers) - set(found)) or "no tower at all"
            reasons = "".join(f" {other.name}: {other.reason}." for other in OpenClipHost.others(host))
            raise FitError(f"expected towers for some of the slots {sorted(found)}, got {wrong}.{reasons}")
        for name, tower in towers.items():
            for dtype in {value.dtype for value in view(host, name).parameters()}:
                fit.check(found[name], tower, dtype)
            _same_original(found[name], tower)

    @staticmethod
    def swap(host: Any, towers: Mapping[str, nn.Module]) -> Swap:  # noqa: ANN401  an open_clip model
        """Copy towers into an open_clip model, each weight in the number format and on the device of the one before.

        Raises:
            HostError, FitError: as `check`; whatever is raised, the model is as it was.
        """
        OpenClipHost.check(host, towers)
        return Swap(host, towers)


class Swap:
    """A swap that was made; the model's mode, and which of its weights take gradients, are its owner's.

    Attributes:
        towers: what is in the slots now: views, in eval mode, gradients off.
        notes: what a reader should know, one sentence each.
    """

    def __init__(self, host: Any, towers: Mapping[str, nn.Module]) -> None:  # noqa: ANN401  an open_clip model
        """Make the swap, which was checked; on any error put everything back and raise."""
        self._host = weakref.ref(host)
        self._originals = {
            name: {key: value.clone() for key, value in view(host, name).state_dict().items()} for name in towers
        }
        try:
            for name, tower in towers.items():
                _write(view(host, name), tower.state_dict())
            self.towers: dict[str, nn.Module] = {name: _tower(host, name) for name in towers}
        except BaseException:
            self.undo()
            raise
        self.notes = ("the model keeps its own projections and logit scale",)

    def undo(self) -> None:
        """Put back what was there, bit for bit, wherever the model was moved since. Done once; then it is a no-op."""
        host = self._host()
        for name, original in self._originals.items() if host is not None else ():
            _write(view(host, name), original)
        self._originals, self.towers = {}, {}


def _write(tower: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors into a view, and so into the model it shows."""
    for name, value in tower.state_dict().items():
        value.copy_(state[name])


_views: WeakKeyDictionary[Any, dict[str, tuple[object, Any]]] = WeakKeyDictionary()


def _identity(host: Any, name: str) -> object:  # noqa: ANN401
    """Return what changes when a module, weight or setting of a tower is exchanged, not when a weight is written into.

    The view that is kept beside it keeps the memory, so that no other weight can get an address in it.
    """
    root = part(host, name)
    tops = [root] if root is not host else [getattr(host, each) for each in _TEXT]
    modules = [module for top in tops if hasattr(top, "modules") for module in top.modules()]
    weights = [value for top in tops for value in (top.parameters() if hasattr(top, "modules") else [top])]
    places = [(value.data_ptr(), value.shape, value.dtype, value.device) for value in weights]
    settings = [getattr(root, setting, None) for setting in _SETTINGS]
    return [id(module) for module in modules], places, settings, getattr(root, "attn_mask", None) is None


def _tower(host: Any, name: str) -> nn.Module:  # noqa: ANN401
    """Return a view that can run: open_clip's half precision keeps some weights in float32, which no view computes."""
    tower: nn.Module = view(host, name)
    return tower if len({value.dtype for value in tower.parameters()}) == 1 else tower.float()


def _same_original(slot: Slot, tower: nn.Module) -> None:
    """Refuse a tower that was made from another CLIP of the same sizes, whose space the model's projection is not of.

    Many open_clip models share their sizes and nothing else. Compared are the matrices; norms are near 1 in any model.
    """
    assert slot.tower is not None  # noqa: S101  slots lists no empty ones
    here = {name: value.float() for name, value in slot.tower.state_dict().items() if value.ndim > 1}
    there = tower.state_dict()
    moved = sum(float((there[name].to(value) - value).square().sum()) for name, value in here.items())
    share = (moved / sum(float(value.square().sum()) for value in here.values())) ** 0.5
    if not share <= UNRELATED:
        raise FitError(
            f"slot {slot.name!r}: expected a tower made from this model's own, got one whose weights differ by "
            f"{share:.2f} of their length: it was made from another CLIP of the same sizes. Choose the open_clip model "
            "that the encoder's base is (safeencoders.info() names it)"
        )


# --- tokenizer -------------------------------------------------------------------------------------------------------
def tokenizer_of(host: Any) -> Any:  # noqa: ANN401  an open_clip model, a CLIPTokenizer
    """Return the tokenizer of an open_clip model, which does not hold one: by the size of its vocabulary, or None."""
    size = part(host, "text").vocab_size
    if size == CLIP_VOCABULARY:
        return _clip_tokenizer()
    world = models.tokenizer()
    return world if size == len(world) else None


@cache
def _clip_tokenizer() -> Any:  # noqa: ANN401  a CLIPTokenizer
    """Make transformers' tokenizer of the vocabulary that open_clip brings along."""
    from transformers import CLIPTokenizer

    plain = package().tokenizer.SimpleTokenizer()
    start, end = "<|startoftext|>", "<|endoftext|>"
    names = {plain.sot_token_id: start, plain.eot_token_id: end}
    vocab = {names.get(number, token): number for token, number in plain.encoder.items()}
    merges = sorted(plain.bpe_ranks, key=plain.bpe_ranks.get)
    ends = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=plain.context_length, **ends)
