"""Edits: which weights of a tower may move, and an exact original to compare with.

The reference is never the tuned model seen through another name: the released training script of Safe-CLIP injects
its adapters into the module it also calls original, so that its reference moves with the model it trains.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from safeencoders.deltas import SCALING, Delta
from safeencoders.errors import BadInputError, MissingExtraError

SAFE_CLIP_TARGETS = ("k_proj", "v_proj", "out_proj", "fc1", "fc2", "patch_embedding")


@dataclass(frozen=True)
class EditSpec:
    """How weights may move; the defaults of ``lora`` are Safe-CLIP's (Poppi et al., 2024, released code).

    Attributes:
        kind: "full", every weight but the frozen ones, or "lora", low-rank adapters.
        frozen: beginnings of parameter names that stay as they are, e.g. "embeddings."; for "full".
        targets: last parts of the names of the modules that get an adapter; for "lora", as all that follow.
        rank: of an adapter.
        alpha: its output is scaled by alpha / rank.
        dropout: share of an adapter's inputs that is dropped while training, in 0..1.
        share: how much of the way from where the run began to the trained weights is kept, above 0 and at most 1;
            for "full". Weights between two towers of one descent keep more of both than a shorter training does
            (WiSE-FT, Wortsman et al., 2022, arXiv 2109.01903). Validations see the whole way.
    """

    kind: Literal["full", "lora"] = "full"
    frozen: tuple[str, ...] = ()
    targets: tuple[str, ...] = SAFE_CLIP_TARGETS
    rank: int = 16
    alpha: float = 1.0
    dropout: float = 0.1
    share: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in {"full", "lora"}:
            raise BadInputError(f"expected edit kind 'full' or 'lora', got {self.kind!r}")
        if self.rank < 1 or not 0 <= self.dropout < 1 or not 0 < self.alpha < math.inf:
            raise BadInputError(
                "expected rank >= 1, a finite alpha > 0 and 0 <= dropout < 1, "
                f"got {self.rank}, {self.alpha} and {self.dropout}"
            )

        if not 0 < self.share <= 1 or (self.kind == "lora" and self.share != 1):
            raise BadInputError(
                f'expected a share above 0 and at most 1, and 1 for "lora" (see load(strength=)), got {self.share}'
            )

    def apply(self, tower: nn.Module, start: nn.Module | None = None) -> Edit:
        """Return an edit of a copy of the tower, which itself is left untouched.

        Args:
            tower: the original, the edit's reference.
            start: where the tuned copy begins; None: at the original.

        Raises:
            BadInputError: adapters cannot begin elsewhere than at the original.
        """
        if self.kind == "full":
            return FullEdit(tower, self.frozen, start, self.share)
        if start is not None:
            raise BadInputError('expected [edit] kind "full" to go on from the towers of another run, got "lora"')
        return LoraEdit(tower, self)


class Edit(Protocol):
    """A tuned copy of a tower, its original, and how to take the result out.

    Attributes:
        tuned: what is trained and called; its parameters that require a gradient are the ones that move.
    """

    tuned: nn.Module

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """Give the original in eval mode: bit-equal to the tower given, after any number of steps."""
        ...

    def merge(self) -> nn.Module:
        """Return a plain copy of the tuned tower in eval mode without gradients."""
        ...

    def delta(self) -> Delta:
        """Return what was added to the original's weights."""
        ...


class FullEdit:
    """Every weight of the tower may move, except those under the frozen names."""

    def __init__(
        self, tower: nn.Module, frozen: tuple[str, ...] = (), start: nn.Module | None = None, share: float = 1.0
    ) -> None:
        self._share = share
        began = tower if start is None else start
        self._start = copy.deepcopy(began).requires_grad_(requires_grad=False) if share < 1 else None
        self._original = copy.deepcopy(tower).eval().requires_grad_(requires_grad=False)
        self.tuned = copy.deepcopy(began).eval()
        for name, parameter in self.tuned.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen))

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """Give the copy made before anything moved."""
        yield self._original

    def merge(self) -> nn.Module:
        """Return a copy of the tuned tower, moved back to the share of the way that is kept."""
        merged = copy.deepcopy(self.tuned).eval().requires_grad_(requires_grad=False)
        if self._start is not None:
            for moved, begin in zip(merged.parameters(), self._start.parameters(), strict=True):
                moved.copy_(begin + (moved - begin) * self._share)
        return merged

    def delta(self) -> Delta:
        """Return the difference of every weight that moved."""
        before = dict(self._original.named_parameters())
        moved = {name: (p - before[name]).detach().cpu() for name, p in self.merge().named_parameters()}
        return Delta("full", {name: change for name, change in moved.items() if change.any()}, {})


class LoraEdit:
    """Low-rank adapters beside linear and convolution layers (Hu et al., 2022), by peft.

    Raises:
        MissingExtraError: peft is not installed.
        BadInputError: no module of the tower has one of the target names.
    """

    def __init__(self, tower: nn.Module, spec: EditSpec) -> None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise MissingExtraError("peft", "train") from error
        known = {name.rsplit(".", 1)[-1] for name, _ in tower.named_modules()}
        targets = [name for name in spec.targets if name in known]
        if not targets:
            raise BadInputError(f"expected LoRA targets among the tower's modules {sorted(known)}, got {spec.targets}")
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,  # type: ignore[arg-type]  # annotated int; peft only divides it
            lora_dropout=spec.dropout,
            target_modules=targets,
            bias="none",
        )
        plain: Any = copy.deepcopy(tower).eval()
        self._scaling = spec.alpha / spec.rank
        with warnings.catch_warnings():  # peft 0.21 reads an alias that transformers 5 deprecates
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            self._peft = get_peft_model(plain, config)
        self.tuned: nn.Module = self._peft

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """Give the base model with every adapter switched off and, for its own dropout, in eval mode."""
        modes = [(module, module.training) for module in self.tuned.modules()]
        self.tuned.eval()
        try:
            with self._peft.disable_adapter():
                yield self._peft.get_base_model()
        finally:
            for module, training in modes:
                module.training = training

    def merge(self) -> nn.Module:
        """Return a plain tower with the adapters added to its weights."""
        merged: nn.Module = copy.deepcopy(self._peft).merge_and_unload(safe_merge=True)
        return merged.eval().requires_grad_(requires_grad=False)

    def delta(self) -> Delta:
        """Return the two factors of every adapter."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._peft.get_base_model().named_parameters():
            for factor in ("lora_A", "lora_B"):
                if f".{factor}." in name:
                    tensors[f"{name.split('.lora_')[0]}.weight.{factor}"] = parameter.detach().cpu().clone()
        return Delta("lora", tensors, {SCALING: str(self._scaling)})


def trainable(modules: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return the number of weights that may move, by tower."""
    return {name: sum(p.numel() for p in m.parameters() if p.requires_grad) for name, m in modules.items()}
