"""Redirection: moves a CLIP's towers so that an objective over roles falls, against a frozen reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from safeencoders.errors import BadInputError
from safeencoders.training.adversary import Adversary, Attack
from safeencoders.training.distributed import gather_rows, processes, rank, sum_gradients, total
from safeencoders.training.edits import Edit, EditSpec
from safeencoders.training.objectives.terms import Embeddings, Kind, Objective, Role, Source, Term, TowerName, Want
from safeencoders.training.words import align_batch, shift_positions

if TYPE_CHECKING:
    from transformers import CLIPModel

    from safeencoders.training.readers import Reader

Reference = Literal["frozen", "self"]
Batch = Mapping[Role, Tensor]
ATTACKED: frozenset[Role] = frozenset({"a", "a0", "a^"})


class Encoders:
    """A CLIP's towers as an objective sees them: tuned and reference, at every layer that a host reads.

    Args:
        clip: the original; it holds the projections, which stay fixed, and the towers that are not trained.
        edits: by tower; the towers that are trained.
        reference: "frozen", the original, or "self", the tuned tower as it is now without a gradient: what the
            released Safe-CLIP script does by a fault, kept as an ablation.
        autocast: makes the context in which towers run, e.g. an accelerator's for bf16.
        fixed: by tower; tuned towers that are not trained any more.
    """

    def __init__(
        self,
        clip: CLIPModel,
        edits: Mapping[TowerName, Edit],
        reference: Reference = "frozen",
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        fixed: Mapping[TowerName, nn.Module] | None = None,
    ) -> None:
        self.edits, self.reference, self._fixed = edits, reference, fixed or {}
        self._clip, self._autocast = clip, autocast
        self.scale = float(clip.logit_scale.detach().exp())
        self.device = clip.logit_scale.device
        config: Any = clip.config.text_config  # annotated as dict or None too; it is always a CLIPTextConfig
        self._end = int(config.eos_token_id)

    def encode(self, source: Source, kinds: set[Kind], batch: Batch) -> dict[Kind, Tensor]:
        """Return the asked-for embeddings of a role's rows, float32; with a gradient only where tuned."""
        with torch.set_grad_enabled(source.tuned and torch.is_grad_enabled()), self._autocast():
            if source.tower == "vision":
                found = self._vision(source, kinds, batch[source.role])
            elif source.seen_from:
                found = self._aligned(source, kinds, batch)
            else:
                found = self._text(source, kinds, {"input_ids": batch[source.role]}, batch.get("a^"))
        return {kind: value.float() for kind, value in found.items()}

    def _tower(self, source: Source) -> AbstractContextManager[nn.Module]:
        edit = self.edits.get(source.tower)
        if edit is None and source.tuned and source.tower in self._fixed:
            return nullcontext(self._fixed[source.tower])
        if edit is None:
            return nullcontext(self._clip.text_model if source.tower == "text" else self._clip.vision_model)
        if source.tuned or self.reference == "self":
            return nullcontext(edit.tuned)
        return edit.reference()

    def words(self, ids: Tensor) -> Tensor:
        """Return the vectors that the text tower reads for tokens, (n, L, width), without a gradient."""
        with self._tower(Source("a", tuned=True)) as tower:
            table: Tensor = tower.get_input_embeddings().weight.detach()  # type: ignore[operator]  # declared as any module
        return table[ids]

    def _text(
        self, source: Source, kinds: set[Kind], inputs: dict[str, Tensor], vectors: Tensor | None = None
    ) -> dict[Kind, Tensor]:
        with self._tower(source) as tower, _given(tower, vectors if source.role == "a" else None):
            output: Any = tower(**inputs, output_hidden_states="penultimate" in kinds)
        return _pick(output, kinds, self._clip.text_projection)

    def _vision(self, source: Source, kinds: set[Kind], pixels: Tensor) -> dict[Kind, Tensor]:
        with self._tower(source) as tower:
            output: Any = tower(pixel_values=pixels, output_hidden_states=bool({"penultimate", "patches"} & kinds))
        return _pick(output, kinds, self._clip.visual_projection)

    def _aligned(self, source: Source, kinds: set[Kind], batch: Batch) -> dict[Kind, Tensor]:
        """Read a caption at another one's positions, and give each token of that one its counterpart's state."""
        inputs, other = batch[source.role], batch[source.seen_from or source.role]
        places = align_batch(other.cpu(), inputs.cpu(), self._end)
        positions = torch.tensor([shift_positions(row) for row in places.tolist()], device=inputs.device)
        found = self._text(source, kinds, {"input_ids": inputs, "position_ids": positions})
        index = places.to(inputs.device)[..., None]
        return {kind: value.gather(1, index.expand(-1, -1, value.shape[-1])) for kind, value in found.items()}


@contextmanager
def _given(tower: nn.Module, vectors: Tensor | None) -> Iterator[None]:
    """Let the tower read these vectors (n, L, width) in place of its tokens'; None: its own."""
    if vectors is None:
        yield
        return
    table: nn.Module = tower.get_input_embeddings()  # type: ignore[operator]  # declared as any module
    handle = table.register_forward_hook(lambda *_: vectors)
    try:
        yield
    finally:
        handle.remove()


def _pick(output: Any, kinds: set[Kind], projection: nn.Module) -> dict[Kind, Tensor]:  # noqa: ANN401
    """Take the asked-for embeddings out of a tower's output, in an order that is the same in every process."""
    of: dict[Kind, Callable[[], Tensor]] = {
        "projected": lambda: projection(output.pooler_output),
        "pooled": lambda: output.pooler_output,
        "last_hidden": lambda: output.last_hidden_state,
        "penultimate": lambda: output.hidden_states[-2],
        "patches": lambda: output.hidden_states[-2][:, 1:],
    }
    return {kind: found() for kind, found in of.items() if kind in kinds}


class RedirectTask:
    """A task for ``training.loop.Fit``: the objective's gradient on each step's batch.

    Args:
        clip: the original; it is not changed.
        objective: its terms without role or trained tower are dropped, and ``formula`` says what is left.
        reader: source of batches.
        edit: how the towers may move.
        towers: the towers that are trained.
        reference: see ``Encoders``.
        micro_batch: rows that are encoded at a time; 0 means all. The result is that of the whole batch.
        device: where the computing is done.
        autocast: see ``Encoders``.
        start: by tower; what an earlier run made of it. Trained towers go on from there, others stay there.
        attack: makes the attacked captions of each step; None: there are none.

    Raises:
        BadInputError: no term is left, or an attack has no captions or no term.
    """

    def __init__(
        self,
        clip: CLIPModel,
        objective: Objective,
        reader: Reader,
        edit: EditSpec | None = None,
        towers: tuple[TowerName, ...] = ("text",),
        *,
        reference: Reference = "frozen",
        micro_batch: int = 0,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        start: Mapping[TowerName, nn.Module] | None = None,
        attack: Attack | None = None,
    ) -> None:
        self._clip = clip.eval().requires_grad_(False).to(device)
        self._reader, self._micro, self._device = reader, micro_batch, device
        own: dict[TowerName, nn.Module] = {"text": clip.text_model, "vision": clip.vision_model}
        begin = {
            name: copy.deepcopy(tower).eval().requires_grad_(False).to(device) for name, tower in (start or {}).items()
        }
        spec = edit or EditSpec()
        self.edits: dict[TowerName, Edit] = {name: spec.apply(own[name], begin.get(name)) for name in towers}
        self.module: nn.Module = nn.ModuleDict({name: edit.tuned for name, edit in self.edits.items()})
        self.encoders = Encoders(clip, self.edits, reference, autocast, begin)
        roles = reader.roles | (ATTACKED if attack and {"t*", "t"} <= reader.roles else set())
        known = {*self.edits, *begin}
        able = objective.usable(lambda source: source.role in roles and (not source.tuned or source.tower in known))
        self.objective = Objective(able.name, tuple(term for term in able.terms if self._moves(term)))
        end = cast("Any", clip.config.text_config).eos_token_id
        self._adversary = Adversary(attack, self.encoders, end, micro_batch) if attack else None
        if attack and not any(source.role == "a" for source, _ in self.objective.wants):
            raise BadInputError(
                "expected safe and unsafe texts, a text tower that is trained and a weight of attacked captions in "
                f"the objective for [attack], got {objective} for the towers {', '.join(towers)}; add them, or leave "
                "[attack] out of the recipe"
            )
        if not self.objective.terms:
            raise BadInputError(
                f"expected data with roles that {objective} can use for the towers {', '.join(towers)}; the data has "
                f"{', '.join(sorted(roles))}: add the missing columns, or train the other tower"
            )

    def _moves(self, term: Term) -> bool:
        """Say whether a trained tower has a part in the term; between towers that stay it is a constant."""
        return any(source.tuned and source.tower in self.edits for source, _ in term.wants)

    def loss(self, step: int) -> Tensor:
        """Return the objective's value on the step's batch, this process's part of it with a gradient."""
        return self._value(self._encode(self._batch(step)))

    def backward(self, step: int) -> float:
        """Add the gradient of the step's whole batch to the parameters; return the loss.

        With micro-batches, losses that decompose over rows are accumulated. For others every embedding is computed
        once without a gradient, the loss gives each embedding's gradient, and a second pass carries it into the
        weights (GradCache, Gao et al., 2021).
        """
        batch, seed = self._batch(step), torch.initial_seed()
        _seed(seed, 0)
        if not self._micro or all(len(rows) <= self._micro for rows in batch.values()):
            loss = self._value(self._encode(batch))
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            found = float(loss.detach())
        elif self.objective.decomposes:
            found = self._accumulate(batch, seed)
        else:
            found = self._cached(batch, seed)
        sum_gradients(p for p in self.module.parameters() if p.requires_grad)
        return found

    def _batch(self, step: int) -> dict[Role, Tensor]:
        """Return this process's rows of the roles that the objective reads; a small batch may have none of some."""
        part = self._reader.batch(step, (rank(), processes()))
        wanted = {role for source, _ in self.objective.wants for role in (source.role, source.seen_from)}
        wanted |= {"t*", "t", "c", "b"} if self._adversary else set()
        found = {role: rows.to(self._device) for role, rows in part.items() if role in wanted and len(rows)}
        return self.with_attacks(found, step)

    def with_attacks(self, batch: Batch, step: int) -> dict[Role, Tensor]:
        """Return the batch with its attacked captions, where the recipe asks for them."""
        return {**batch, **(self._adversary.rows(batch, step) if self._adversary and "t*" in batch else {})}

    def _encode(self, batch: Batch, *, tuned_only: bool = False) -> dict[Want, Tensor]:
        wanted: dict[Source, set[Kind]] = {}
        for source, kind in self.objective.wants:
            if (source.tuned or not tuned_only) and len(batch.get(source.role, ())):
                wanted.setdefault(source, set()).add(kind)
        return {
            (source, kind): value
            for source, kinds in wanted.items()
            for kind, value in self.encoders.encode(source, kinds, batch).items()
        }

    def _value(self, local: Mapping[Want, Tensor]) -> Tensor:
        gathered = {want: gather_rows(value) for want, value in local.items()}
        known = {source for source, _ in gathered}
        return self.objective.usable(lambda source: source in known).value(Embeddings(gathered, self.encoders.scale))

    def _parts(self, batch: Batch) -> list[dict[Role, Tensor]]:
        count = -(-max(len(rows) for rows in batch.values()) // self._micro)
        split = {role: rows.tensor_split(count) for role, rows in batch.items()}
        return [{role: rows[i] for role, rows in split.items()} for i in range(count)]

    def _accumulate(self, batch: Batch, seed: int) -> float:
        found = 0.0
        for i, part in enumerate(self._parts(batch)):
            _seed(seed, i)

            def share(term: Term, part: Batch = part) -> float:
                role = term.wants[0][0].role
                return len(part[role]) / len(batch[role]) / processes() if role in batch else 0.0

            usable = Objective("part", tuple(term for term in self.objective.terms if share(term)))
            if not usable.terms:  # fewer rows than parts
                continue
            loss = usable.value(Embeddings(self._encode(part), self.encoders.scale), share)
            loss.backward()  # type: ignore[no-untyped-call]
            found += float(loss.detach())
        return total(found)

    def _cached(self, batch: Batch, seed: int) -> float:
        parts = self._parts(batch)
        pieces: dict[Want, list[Tensor]] = {}
        with torch.no_grad():
            for i, part in enumerate(parts):
                _seed(seed, i)
                for want, value in self._encode(part).items():
                    pieces.setdefault(want, []).append(value)
        whole = {
            want: torch.cat(values).requires_grad_(want[0].tuned)  # the leaves whose gradients are kept
            for want, values in pieces.items()
        }
        loss = self._value(whole)
        loss.backward()  # type: ignore[no-untyped-call]
        rows = {want: [len(value) for value in values] for want, values in pieces.items()}
        gradients = {
            want: list(torch.split(value.grad, rows[want])) for want, value in whole.items() if value.grad is not None
        }
        for i, part in enumerate(parts):
            _seed(seed, i)
            passed = self._encode(part, tuned_only=self.encoders.reference == "frozen")
            again = {want: value for want, value in passed.items() if want[0].tuned}
            torch.autograd.backward(list(again.values()), [gradients[want].pop(0) for want in again])
        return float(loss.detach())


def _seed(seed: int, part: int) -> None:
    """Give both passes over a part the same dropout, and each process its own."""
    torch.manual_seed(seed + 1_009 * part + 7_919 * rank())
