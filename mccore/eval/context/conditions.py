"""What a model predicts on the same rows with different Working Contexts: the passes behind `within_sequence`.

Everything goes through `working_context.assemble` and `context_inputs`, as in training. All rows have one length, so all
contexts of a condition do too, and a cut is given by the level over each block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mccore.eval.context.geometry import Geometry, Ledger
from mccore.eval.context.policies import bm25_rows
from mccore.eval.context.where import NOWHERE, level_at, newest_pairs
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.networks.nodes import AttentionMass
from mccore.megacontext.networks.positions import Spans
from mccore.megacontext.search.batched import span_scores
from mccore.megacontext.training.random_cuts import CutShape, entries_of
from mccore.megacontext.working_context import WorkingContexts, assemble, context_inputs, context_targets
from mccore.model.chance import hash_uniform
from mccore.model.gpt import GPT
from mccore.model.ops.elementwise import rms_norm

_EPS = 1e-6  # of the norm of mean-pooled gists, GistNet's


class ContextModels(NamedTuple):
    """What reads, and in contexts of which shape; `max_entries` of one forward pass bound the memory."""

    gpt: GPT
    nets: MegaContextNets
    geometry: Geometry
    max_entries: int = 2**15


class ContextRows:
    """Some of the rows and every pass over them. `at`: their numbers [b]; `tokens` and `others`, with whose gists theirs are
    swapped, [b, n + 1]."""

    def __init__(
        self, models: ContextModels, at: Tensor, tokens: Tensor, others: Tensor | None, ledger: Ledger
    ) -> None:
        self.gpt, self.nets, self.geometry, self._max_entries = models
        gpt, nets, geometry = self.gpt, self.nets, self.geometry
        self.at, self.ledger = at, ledger
        self.inputs, self.targets = tokens[:, :-1], tokens[:, 1:]
        self.levels = nets.pyramid(gpt.embed(self.inputs))
        self.others = None if others is None else nets.pyramid(gpt.embed(others[:, :-1]))
        self.own = torch.arange(len(tokens), device=tokens.device)
        self.place = newest_pairs(tokens, geometry.horizon)  # [b, H]

    def distance(self) -> Tensor:
        """How many tokens back each scored token could be copied from, int64 [b, H], 0 for nowhere."""
        own = torch.arange(self.geometry.tokens + 1 - self.geometry.horizon, self.geometry.tokens + 1)
        return torch.where(self.place == NOWHERE, 0, own.to(self.place.device) - self.place)

    def run(self, query_tokens: int, oracle: bool, seed: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Every condition, entered in the ledger; returns what `run_policies` does."""
        full, attention = self.run_full()
        self.run_plain()
        return self.run_policies(full, attention, query_tokens=query_tokens, oracle=oracle, seed=seed)

    # --- contexts and passes ------------------------------------------------------------------------------------------

    def contexts(self, state: Tensor, entries: int, row: Tensor | None = None) -> WorkingContexts:
        """Contexts of `entries` entries with the levels `state` [r, blocks] over the blocks of the rows `row` [r]."""
        geometry = self.geometry
        row = self.own if row is None else row
        shape = CutShape(geometry.tokens, entries, geometry.block_size, geometry.max_lod, geometry.recent)
        return assemble(self.levels, row, *entries_of(shape, state.to(row.device)), geometry.block_size)

    def raw(self, count: int) -> WorkingContexts:
        """The last `count` tokens of every row, nothing else."""
        index = torch.arange(self.geometry.tokens - count, self.geometry.tokens, device=self.own.device)
        index = index.expand(len(self.own), -1).contiguous()
        return assemble(self.levels, self.own, torch.zeros_like(index), index, self.geometry.block_size)

    def score(self, contexts: WorkingContexts, recorder: AttentionMass | None = None) -> tuple[Tensor, Tensor]:
        """The tokens scored and their losses, each [r, H]."""
        inputs = context_inputs(self.gpt, self.nets, contexts, self.inputs)
        horizon = slice(-self.geometry.horizon, None)
        hidden = self.gpt.hidden(**inputs, attend=recorder)[:, horizon]
        wanted = context_targets(contexts, self.targets)[:, horizon]
        return wanted, self.gpt.hidden_loss(hidden, wanted, reduction="none")

    def record(self, name: str, contexts: WorkingContexts, recorder: AttentionMass | None = None) -> Tensor:
        """Score a condition of every row and enter it in the ledger: losses [b, H]."""
        wanted, nll = self.score(contexts, recorder)
        self.ledger.add(name, self.at[contexts.row.cpu()], wanted, nll)
        return nll

    def expand(self, chosen: Tensor) -> Tensor:
        """The levels over the blocks [b, blocks] of the unexpanded context with the blocks `chosen` [b, e] shown as tokens."""
        return self._unexpanded().repeat(len(self.own), 1).scatter(1, chosen, 0)

    def record_state(self, name: str, state: Tensor, recorder: AttentionMass | None = None) -> Tensor:
        """`record` of the cuts with the levels `state` [b, blocks], which the ledger keeps too."""
        geometry = self.geometry
        fewer = geometry.expanded * (geometry.block_size - 1) if name == "unexpanded" else 0
        nll = self.record(name, self.contexts(state, geometry.entries - fewer), recorder)
        self.ledger.add_levels(name, self.at, level_at(self.place, state, geometry.block_size))
        return nll

    def _unexpanded(self) -> Tensor:
        return self.geometry.state(self.geometry.collapses + self.geometry.expanded).to(self.own.device)

    # --- conditions ---------------------------------------------------------------------------------------------------

    def run_full(self) -> tuple[Tensor, Tensor]:
        """The whole row as tokens, as in training: losses [b, H], and the attention [b, H, blocks] of the tokens that make
        the scored predictions to far blocks."""
        geometry = self.geometry
        first = torch.full_like(self.own, geometry.tokens - geometry.horizon)
        limit = torch.full_like(self.own, geometry.candidates[1])
        size, blocks = geometry.block_size, geometry.blocks
        recorder = AttentionMass(first, geometry.horizon, size, blocks, limit, self.gpt.attend)
        values = self.gpt.embed_values(self.inputs)
        hidden = self.gpt.hidden(embeddings=self.levels[0], value_embeddings=values, attend=recorder)
        wanted = self.targets[:, -geometry.horizon :]
        nll = self.gpt.hidden_loss(hidden[:, -geometry.horizon :], wanted, reduction="none")
        self.ledger.add("full", self.at, wanted, nll)
        return nll, recorder.excess()

    def run_plain(self) -> None:
        """Conditions without a choice: windows, and gists as they are, zeroed, swapped or mean-pooled."""
        geometry = self.geometry
        self.record("window", self.raw(geometry.budget))
        self.record("tail", self.raw(geometry.tokens - geometry.terraces(geometry.collapses)[1] * geometry.block_size))
        state = geometry.state(geometry.collapses).repeat(len(self.own), 1).to(self.own.device)
        gists = self.contexts(state, geometry.entries)
        self.record_state("gists", state)
        coarse = (gists.level > 0).unsqueeze(-1)
        zeroed = gists.embeddings.masked_fill(coarse, 0.0)
        self.record("gists_zeroed", dataclasses.replace(gists, embeddings=zeroed))
        instead = {"gists_mean": mean_pyramid(self.levels[0], geometry.block_size, geometry.max_lod)}
        if self.others is not None:
            instead["gists_swapped"] = self.others
        for name, levels in instead.items():
            other = assemble(levels, self.own, gists.level, gists.index, geometry.block_size).embeddings
            self.record(name, dataclasses.replace(gists, embeddings=torch.where(coarse, other, gists.embeddings)))

    def run_policies(
        self, full: Tensor, attention: Tensor, *, query_tokens: int, oracle: bool, seed: int
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The unexpanded context, and it with e blocks expanded by every policy.

        Returns each policy's scores [b, J] of the candidates and their true utilities [b, J], None without `oracle`.
        """
        geometry = self.geometry
        first, stop = geometry.candidates
        count, far = stop - first, geometry.terraces(geometry.collapses + geometry.expanded)[1]
        coarse = self.contexts(
            self._unexpanded().repeat(len(self.own), 1),
            geometry.entries - geometry.expanded * (geometry.block_size - 1),
        )
        gists = int((coarse.level[0] > 0).sum())
        history = coarse.level.size(1) - (geometry.horizon - 1)
        asked = min(query_tokens, history - gists)
        limit = torch.full_like(self.own, gists)
        recorder = AttentionMass(
            torch.full_like(self.own, history - asked), asked, 1, coarse.level.size(1), limit, self.gpt.attend
        )
        unexpanded = self.record_state("unexpanded", self._unexpanded().repeat(len(self.own), 1), recorder)

        candidate = torch.arange(count, device=self.own.device)
        rows = self.at.to(candidate.device)
        suffered = (unexpanded - full).clamp(min=0) + self.nets.config.lens.key_floor
        scores = {
            "random": hash_uniform(seed, rows.unsqueeze(1), candidate),
            "recency": candidate.float().expand(len(rows), -1),
            "bm25": self._bm25(asked, first, far).to(candidate.device),
            "ngram": self._ngram(asked, first, far),
            "raw_attention": recorder.excess().sum(dim=1)[:, gists - count : gists],
            "teacher_attention": (attention * suffered.unsqueeze(-1)).sum(dim=1)[:, first:stop],
            "lens": self.lens(coarse, history)[:, gists - count : gists],
        }
        for name, values in scores.items():
            # A stable order: of two alike the newer.
            order = values.flip(1).sort(dim=1, descending=True, stable=True).indices[:, : geometry.expanded]
            self.record_state(name, self.expand(first + count - 1 - order))
        return scores, self._run_oracles(unexpanded) if oracle else None

    def _run_oracles(self, unexpanded: Tensor) -> Tensor:
        """The two oracles, and the true utilities [b, J] of the candidates; `unexpanded` are its losses [b, H].

        `oracle_bound` picks on the tokens that it is scored on, and wins by luck alone. `oracle` picks for every second token
        on the others: what it wins is there.
        """
        first = self.geometry.candidates[0]
        every = torch.arange(self.geometry.horizon, device=self.own.device)
        utilities, chosen = self._greedy(unexpanded.double(), [every, every[0::2], every[1::2]])
        self.record_state("oracle_bound", self.expand(first + chosen[0]))
        if self.geometry.horizon > 1:  # a single token has no others
            states = [self.expand(first + picked) for picked in chosen[2:0:-1]]  # for even tokens by the odd ones
            even, odd = (self.contexts(state, self.geometry.entries) for state in states)
            (wanted, nll), (_, other) = self.score(even), self.score(odd)
            nll[:, 1::2] = other[:, 1::2]
            self.ledger.add("oracle", self.at, wanted, nll)
            level, other = (level_at(self.place, state, self.geometry.block_size) for state in states)
            level[:, 1::2] = other[:, 1::2]
            self.ledger.add_levels("oracle", self.at, level)
        return utilities

    def lens(self, contexts: WorkingContexts, history: int) -> Tensor:
        """LensNet's scores of the first `history` entries, of which those before the recent tokens compete: [b, history]."""
        spans = Spans(*(part[:, :history] for part in contexts.spans))
        editable = contexts.last[:, :history] < self.geometry.limit * self.geometry.block_size
        entries = contexts.embeddings[:, :history].to(self.nets.dtype)
        scores: Tensor = self.nets.lensnet(entries, spans, editable).scores
        return scores

    def _bm25(self, asked: int, first: int, stop: int) -> Tensor:
        """Lexical overlap of each candidate with the newest `asked` tokens of the history."""
        size, end = self.geometry.block_size, self.geometry.tokens + 1 - self.geometry.horizon
        tokens = self.inputs.cpu().numpy()
        documents = tokens[:, first * size : stop * size].reshape(len(tokens), -1, size)
        return torch.from_numpy(bm25_rows(tokens[:, end - asked : end], documents)).float()

    def _ngram(self, asked: int, first: int, stop: int) -> Tensor:
        """What the search of a session scores each candidate by, with the newest tokens of the history, `asked` at most."""
        search, end = self.nets.config.search, self.geometry.tokens + 1 - self.geometry.horizon
        query = self.inputs[:, end - min(asked, search.query_tokens) : end]
        scores = span_scores(self.inputs[:, :end], query, self.geometry.block_size, search.half_life)
        return scores[:, first:stop]

    def _greedy(self, base: Tensor, judges: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The utility [b, J] of expanding each candidate alone, in nats per scored token, and for each of `judges`, numbers of
        scored tokens, the candidates [b, e] that a greedy search for these tokens picks, which measures all that are left
        again after each. `base`: losses of the unexpanded context [b, H]."""
        geometry = self.geometry
        first, stop = geometry.candidates
        start = self._unexpanded().repeat(len(self.own), 1)
        none = torch.zeros(len(start), stop - first, dtype=torch.bool, device=start.device)
        alone = self._losses_of_each(start, none, 0)
        found = []
        for judge in judges:
            state, opened = start, none
            picks: list[Tensor] = []
            for turn in range(geometry.expanded if judge.numel() else 0):
                losses = self._losses_of_each(state, opened, turn) if turn else alone
                best = losses[:, :, judge].mean(dim=2).argmin(dim=1, keepdim=True)  # infinite where it is open
                picks.append(best)
                opened, state = opened.scatter(1, best, True), state.scatter(1, first + best, 0)
            found.append(torch.cat(picks, dim=1) if picks else alone.new_zeros(len(alone), 0).long())
        return base.mean(dim=1, keepdim=True) - alone.mean(dim=2), found

    def _losses_of_each(self, state: Tensor, opened: Tensor, turn: int) -> Tensor:
        """Losses [b, J, H], fp64, of cuts with levels `state` [b, blocks], `turn` blocks expanded, after expanding each of the
        candidates; infinite for those in `opened` [b, J], which are."""
        geometry = self.geometry
        first = geometry.candidates[0]
        entries = geometry.entries - (geometry.expanded - turn - 1) * (geometry.block_size - 1)
        row, candidate = (~opened).nonzero(as_tuple=True)
        found = torch.full((*opened.shape, geometry.horizon), torch.inf, dtype=torch.float64, device=opened.device)
        step = max(1, self._max_entries // entries)
        for at in range(0, len(row), step):
            part = slice(at, at + step)
            tried = state[row[part]].scatter(1, (first + candidate[part]).unsqueeze(1), 0)
            found[row[part], candidate[part]] = self.score(self.contexts(tried, entries, row[part]))[1].double()
        return found


def mean_pyramid(embeddings: Tensor, block_size: int, max_lod: int) -> Sequence[Tensor]:
    """A pyramid whose gists are the normed means of their normed children, as GistNet's are before it learns anything."""
    levels = [embeddings]
    for _ in range(max_lod):
        below = levels[-1]
        blocks = below.size(1) // block_size
        children = rms_norm(below[:, : blocks * block_size], _EPS)
        levels.append(rms_norm(children.reshape(below.size(0), blocks, block_size, below.size(2)).mean(dim=2), _EPS))
    return levels
