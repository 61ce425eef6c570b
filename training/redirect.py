"""Redirection: moves a CLIP's tower so that an objective over roles falls, against a frozen reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from safeencoders.errors import BadInputError
from safeencoders.training.edits import FullEdit
from safeencoders.training.objectives.terms import Kind, Objective, Role, Source
from safeencoders.training.words import align_batch, shift_positions

if TYPE_CHECKING:
    from transformers import CLIPModel

    from safeencoders.training.data import Reader


class BatchEmbeddings:
    """The embeddings of one batch, each computed on first use.

    Args:
        clip: holds the projections, which stay fixed, and the original vision tower.
        text: the text tower's edit; the vision tower is the original, so terms that train it are dropped.
        batch: inputs by role.
    """

    def __init__(self, clip: CLIPModel, text: FullEdit, batch: dict[Role, Tensor]) -> None:
        self._clip, self._text, self._batch = clip, text, batch
        self.scale = float(clip.logit_scale.exp())
        config: Any = clip.config.text_config  # annotated as dict or None too; it is always a CLIPTextConfig
        self._end = int(config.eos_token_id)
        self._known: dict[tuple[Source, Kind], Tensor] = {}

    def has(self, source: Source) -> bool:
        """Return whether the role is there and, for a tuned source, its tower is trained."""
        return source.role in self._batch and not (source.tuned and source.role.startswith("v"))

    def get(self, source: Source, kind: Kind) -> Tensor:
        """Return the embedding; see ``Embeddings.get``."""
        if (source, kind) not in self._known:
            self._encode(source)
        return self._known[source, kind]

    def aligned(self, role: Role, target: Source) -> Tensor:
        """Return the target's states as seen from the role's tokens; see ``Embeddings.aligned``."""
        inputs = self._batch[target.role]
        places = align_batch(self._batch[role], inputs, self._end)
        positions = torch.tensor([shift_positions(row) for row in places.tolist()])
        with torch.no_grad():
            states = self._text.reference()(input_ids=inputs, position_ids=positions).last_hidden_state
        gathered: Tensor = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
        return gathered

    def _encode(self, source: Source) -> None:
        inputs = self._batch[source.role]
        with torch.set_grad_enabled(source.tuned):
            if source.role.startswith("v"):
                pooled = self._clip.vision_model(pixel_values=inputs).pooler_output
                self._known[source, "projected"] = self._clip.visual_projection(pooled)
                return
            tower: nn.Module = self._text.tuned if source.tuned else self._text.reference()
            output = tower(input_ids=inputs)
            self._known[source, "projected"] = self._clip.text_projection(output.pooler_output)
            self._known[source, "last_hidden"] = output.last_hidden_state


class RedirectTask:
    """A task for ``training.loop.Fit``: the objective's value on each step's batch.

    Args:
        clip: the original; it is not changed.
        objective: its terms without role or trained tower are dropped, and ``formula`` says what is left.
        reader: source of batches.
        frozen: beginnings of the text tower's parameter names that must not move.

    Raises:
        BadInputError: no term is left.
    """

    def __init__(self, clip: CLIPModel, objective: Objective, reader: Reader, frozen: tuple[str, ...] = ()) -> None:
        self._clip = clip.eval().requires_grad_(False)
        self._reader = reader
        self.edit = FullEdit(clip.text_model, frozen)
        self.module: nn.Module = self.edit.tuned
        self.objective = objective.usable(BatchEmbeddings(self._clip, self.edit, reader.batch(0)))
        if not self.objective.terms:
            raise BadInputError(
                f"expected data with a role that {objective} can use; the reader gives {sorted(reader.batch(0))}"
            )

    def loss(self, step: int) -> Tensor:
        """Return the objective's value on the step's batch."""
        return self.objective.value(BatchEmbeddings(self._clip, self.edit, self._reader.batch(step)))
