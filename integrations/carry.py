"""What a user had put into the old tower and expects to find in the new one: added tokens and live LoRA adapters.

Both are carried over bit for bit, or refused when that cannot be: a fused adapter cannot be told from the weights it
was added to, and an added token whose row is not in the old table has nothing to carry.
"""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

from safeencoders.errors import FitError, HostError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from safeencoders.integrations.slots import Slot


# --- textual inversion -----------------------------------------------------------------------------------------------
def added(tokenizer: Any) -> tuple[int, ...]:  # noqa: ANN401  any tokenizer of transformers
    """Return the ids of the tokens that were added after the tokenizer was made, in ascending order."""
    return tuple(sorted(number for number in tokenizer.added_tokens_decoder if number >= tokenizer.vocab_size))


def check_tokens(slot: Slot, tower: nn.Module) -> None:
    """Refuse a tower whose vocabulary is not the slot's, and added tokens that cannot be carried over.

    Raises:
        FitError: the tower has another vocabulary than the one it would replace, before added tokens.
        HostError: the tokenizer knows a token that has no row in the table of the tower that is there now.
    """
    tokenizer: Any = slot.tokenizer
    ids, rows = added(tokenizer), _table(tower).shape[0]
    there = rows if slot.tower is None else _table(slot.tower).shape[0]
    if max(tokenizer.vocab_size - 1, *ids, 0) >= there:
        raise HostError(
            f"slot {slot.name!r}: its tokenizer knows {len(tokenizer)} tokens, its tower only {there}; a token was "
            "added to one alone, or its row was cut off: add tokens with load_textual_inversion()"
        )
    if there < rows or not set(range(rows, there)) <= set(ids):
        raise FitError(
            f"slot {slot.name!r}: expected a tower of vocab_size {there - len([i for i in ids if i < there])} "
            f"(and {len(ids)} added tokens), got {rows}; choose an encoder whose base is this host's"
        )


def tokens(old: nn.Module, new: nn.Module, ids: tuple[int, ...]) -> None:
    """Give the new tower the old one's rows of added tokens, bit for bit, and its table the old one's length.

    Both are on one device and in one number format.
    """
    import torch

    source, table = _table(old).detach(), _table(new).detach()
    weight = torch.cat([table[: len(source)], source[len(table) :]])
    weight[list(ids)] = source[list(ids)]
    target: Any = new
    embedding = target.get_input_embeddings()
    embedding.weight = torch.nn.Parameter(weight, requires_grad=embedding.weight.requires_grad)
    embedding.num_embeddings = target.config.vocab_size = len(weight)


def _table(tower: Any) -> Tensor:  # noqa: ANN401  a text tower of transformers
    weight: Tensor = tower.get_input_embeddings().weight
    return weight


# --- LoRA ------------------------------------------------------------------------------------------------------------
def layers(tower: nn.Module) -> dict[str, Any]:
    """Return the layers of a tower that carry live adapters, by name."""
    peft: Any = sys.modules.get("peft.tuners.tuners_utils")
    if peft is None:  # nobody has imported peft, so nobody can have used it
        return {}
    return {name: module for name, module in tower.named_modules() if isinstance(module, peft.BaseTunerLayer)}


def state(tower: nn.Module) -> dict[str, tuple[object, ...]]:
    """Return what is loaded on each layer, at which scale, and whether it is active or fused; equal means unchanged."""
    return {
        name: (dict(layer.scaling), tuple(layer.active_adapters), layer.disable_adapters, tuple(layer.merged_adapters))
        for name, layer in layers(tower).items()
    }


def check_live(name: str, tower: nn.Module) -> None:
    """Refuse adapters that are fused into a tower's weights.

    Raises:
        HostError: one is.
    """
    fused = next((where for where, layer in layers(tower).items() if layer.merged), None)
    if fused is not None:
        raise HostError(
            f"slot {name!r}: the LoRA on {fused} is fused into the weights, from which it cannot be told apart; call "
            f"unfuse_lora(components=[{name!r}]) first, and fuse again afterwards"
        )


def check_adapters(slot: Slot, tower: nn.Module) -> None:
    """Refuse adapters on the slot's tower that the new one could not take over exactly.

    Raises:
        HostError: an adapter is fused, replaces whole modules, or sits on a layer that the new tower has not.
    """
    if slot.tower is None:
        return
    check_live(slot.name, slot.tower)
    modules = dict(tower.named_modules())
    for name, layer in layers(slot.tower).items():
        base, target = layer.get_base_layer(), modules.get(name)
        if target is None or type(target) is not type(base) or target.weight.shape != base.weight.shape:
            raise HostError(
                f"slot {slot.name!r}: the LoRA on {name} finds no such layer in the new tower; call "
                "unload_lora_weights() first"
            )
    peft: Any = sys.modules.get("peft.utils.other")
    if peft is not None and any(isinstance(part, peft.AuxiliaryTrainingWrapper) for part in slot.tower.modules()):
        raise HostError(
            f"slot {slot.name!r}: an adapter replaces whole modules (modules_to_save), which would undo the new "
            "tower's; call unload_lora_weights() first"
        )


def check_fused(host: Any, names: tuple[str, ...]) -> None:  # noqa: ANN401  any host
    """Refuse a host that has fused adapters and then dropped their layers: nobody can tell which weights hold them.

    Raises:
        HostError: such an adapter may be in one of the named towers.
    """
    import torch

    loadable = set(getattr(host, "_lora_loadable_modules", ())) & set(names)
    fused = set(getattr(host, "fused_loras", ())) if loadable else set()
    modules = [module for module in host.components.values() if isinstance(module, torch.nn.Module)] if fused else []
    known = {name for module in modules for layer in layers(module).values() for name in layer.merged_adapters}
    if fused - known:
        raise HostError(
            f"the host has fused LoRA {sorted(fused - known)} and unloaded it, perhaps into {sorted(loadable)}; its "
            "weights cannot be told apart any more. Load the pipeline again, protect it, then load and fuse the LoRA"
        )


def adapters(old: nn.Module, new: nn.Module) -> tuple[str, ...]:
    """Give the new tower copies of the old one's adapters in place of its own: weights, scales, what is active.

    Returns:
        Their names.
    """
    for name, layer in layers(new).items():
        _set(new, name, layer.get_base_layer())
    source: Any = old
    target: Any = new
    vars(target).pop("peft_config", None)
    found = layers(old)
    for name, layer in found.items():
        # deepcopy takes whatever its memo says for the layer inside: the copy wraps the new tower's layer
        _set(new, name, copy.deepcopy(layer, {id(layer.base_layer): new.get_submodule(name)}))
    target._hf_peft_config_loaded = getattr(source, "_hf_peft_config_loaded", None)  # noqa: SLF001  transformers' flag
    if not found:
        return ()
    target.peft_config = copy.deepcopy(source.peft_config)
    return tuple(target.peft_config)


def _set(tower: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(tower.get_submodule(parent), attribute, module)
