"""How much the lookup may say of a model's sessions: learned on documents that the model wasn't trained on.

A document goes through a session as a conversation would: `refocus_interval` tokens are predicted, become history, and the
session refocuses. What is learned makes those predictions likelier, `LookupMixer`'s few hundred numbers and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mccore.megacontext.search.bigram_index import BigramIndex
from mccore.megacontext.search.lookup import REACH, Matches, find_matches
from mccore.megacontext.search.mixing import FLOOR, LookedUp, LookupMixer, looked_up, mixed_nll
from mccore.megacontext.sessions.session import Session

FIT_TOKENS = 16_384  # predictions that are enough for so few numbers
FIT_DOCUMENTS = 64  # at most
DOCUMENT_TOKENS = 8_192  # of a document at most
STEPS = 60  # of L-BFGS at most
DECAY = 1e-4  # weight of the squared weights of the network, in nats
_WIDTH = 2 * REACH  # matches at most


@dataclass(frozen=True)
class Examples:
    """Predictions to learn from, N of them: the matches, what the model gave the tokens behind them (`theirs` [N, C], log) and
    the token that came (`own` [N], log), which of the tokens that is (`wanted` int64 [N], -1 for none), and its entropy [N]."""

    found: LookedUp
    theirs: Tensor
    entropy: Tensor
    own: Tensor
    wanted: Tensor

    def __len__(self) -> int:
        return len(self.own)


@dataclass(frozen=True)
class FitReport:
    """What was learned from: predictions and documents, and the NLL per token of what was learned from with and without."""

    tokens: int
    documents: int
    nll: float
    nll_with_lookup: float


def matches_along(index: BigramIndex, ids: Sequence[int]) -> Iterator[Matches]:
    """The matches behind what an index holds, then behind each of these tokens, the last one left out: len(ids) of them."""
    for number, _ in enumerate(ids):
        if number:
            index.append_token(int(ids[number - 1]))
        yield find_matches(index)


def examples_of(logits: Tensor, ids: NDArray[np.int64], rows: Sequence[tuple[Matches, Any, int]]) -> Examples:
    """Predictions of the tokens `ids` [H] by logits [H, V], each with its matches, those shown, and the tokens before it."""
    found = looked_up(rows)
    pad = (0, _WIDTH - found.group.size(1))
    found = LookedUp(
        F.pad(found.kind, pad), F.pad(found.age, pad), F.pad(found.shown, pad),
        F.pad(found.group, pad, value=-1), F.pad(found.token, pad),
    )  # fmt: skip
    log = torch.log_softmax(logits.float(), dim=1).cpu()
    target = torch.from_numpy(ids)
    followed = torch.zeros_like(found.age).scatter_add_(1, found.group.clamp(min=0), (found.group >= 0).float()) > 0
    hit = (found.token == target[:, None]) & followed
    return Examples(
        found,
        log.gather(1, found.token),
        -(log.exp() * log.clamp(min=FLOOR)).sum(dim=1),
        log.gather(1, target[:, None])[:, 0],
        torch.where(hit.any(dim=1), hit.float().argmax(dim=1), -1),
    )


def together(parts: Sequence[Examples]) -> Examples:
    """All examples as one."""
    found = LookedUp(
        *(torch.cat(each) for each in zip(*(vars(part.found).values() for part in parts), strict=True)),
    )
    rest = zip(*((part.theirs, part.entropy, part.own, part.wanted) for part in parts), strict=True)
    return Examples(found, *(torch.cat(each) for each in rest))


@torch.inference_mode()
def session_examples(new_session: Callable[[], Session], ids: NDArray[np.int64], tokens: int) -> Iterator[Examples]:
    """Predictions of the last `tokens` of a document, ids [n], as a session makes them, none of what fits a Working Context."""
    session, index = new_session(), BigramIndex()
    options, model = session.model.options, session.model
    start = max(options.wc_length + 1, len(ids) - tokens)
    session.append(ids[:start])
    index.append(ids[:start])
    step = options.refocus_interval
    for begin in range(start, len(ids) - step + 1, step):
        session.read()
        logits = session.reading.logits
        assert logits is not None
        later = ids[begin : begin + step]
        logits = logits[None]
        if step > 1:
            behind = torch.from_numpy(later[:-1]).to(model.gpt.device)
            hidden = session.working_context.read_tokens(behind, begin)
            logits = torch.cat([logits, model.gpt.logits(hidden)])
        rows = [
            (matches, session.reading.shows(matches.place), begin + number)
            for number, matches in enumerate(matches_along(index, later))
        ]
        index.append_token(int(later[-1]))
        yield examples_of(logits, later, rows)
        session.append(later)
    session.close()


def collect(
    new_session: Callable[[], Session],
    documents: Iterable[NDArray[np.int64]],
    *,
    least: int,
    tokens: int = FIT_TOKENS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Examples | None, int]:
    """About so many examples, as many of each of the documents, ids [n] each; and how many documents that are. None where no
    document is long enough for one."""
    found: list[NDArray[np.int64]] = []
    for ids in documents:
        if len(ids) > least:
            found.append(ids[:DOCUMENT_TOKENS])
        if len(found) == FIT_DOCUMENTS:
            break
    parts: list[Examples] = []
    for number, ids in enumerate(found):
        on_progress(number, len(found))
        parts += session_examples(new_session, ids, -(-tokens // len(found)))
    return (together(parts) if parts else None), len(found)


def losses(mixer: LookupMixer, examples: Examples) -> Tensor:
    """NLL [N] of the tokens that came, with what the lookup says."""
    q = mixer.distribution(examples.found)
    say = mixer.say(examples.found, q, examples.theirs, examples.entropy)
    given = q.gather(1, examples.wanted.clamp(min=0)[:, None])[:, 0] * (examples.wanted >= 0)
    nll = mixed_nll(examples.own, given, say.clamp(min=FLOOR))
    return torch.where((examples.found.group[:, 0] >= 0), nll, -examples.own)


def fit(examples: Examples) -> LookupMixer:
    """The mixer that these examples teach: the same for the same examples, on one thread or many."""
    chosen = examples.found.group[:, 0] >= 0  # without a match there is nothing to say
    some = Examples(
        LookedUp(*(_double(each[chosen]) for each in vars(examples.found).values())),
        *(_double(each[chosen]) for each in (examples.theirs, examples.entropy, examples.own, examples.wanted)),
    )
    mixer = LookupMixer().double()
    if not len(some):
        return mixer.float()
    parameters = list(mixer.parameters())
    optimizer = torch.optim.LBFGS(parameters, max_iter=STEPS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        decay = mixer.hidden.weight.square().sum() + mixer.out.weight.square().sum()
        loss = losses(mixer, some).mean() + DECAY * decay
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # sums in another order differ in their last digits: those are dropped
        for parameter in parameters:
            parameter.copy_(torch.from_numpy(_rounded(parameter.numpy())))
    return mixer.float().requires_grad_(False)


def report(mixer: LookupMixer, examples: Examples, documents: int) -> FitReport:
    """What a mixer does for the examples of so many documents."""
    with torch.no_grad():
        with_lookup = float(losses(mixer, examples).double().mean())
    return FitReport(len(examples), documents, round(float(-examples.own.double().mean()), 6), round(with_lookup, 6))


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    out: NDArray[np.float64] = np.vectorize(lambda value: float(f"{value:.4g}"), otypes=[np.float64])(values)
    return out
