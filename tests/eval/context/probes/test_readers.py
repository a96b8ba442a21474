"""A session that looks up answers what its Working Context can't; every other condition is what it is called."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mccore.eval.context.policies import SINKS
from mccore.eval.context.probes.kinds import depths, draw_probes
from mccore.eval.context.probes.probe import HistoryProbe
from mccore.eval.context.probes.readers import READS, SessionReader
from mccore.eval.context.probes.tally import ask, tally
from mccore.megacontext.sessions.model import SessionModel
from tests.eval.context.far.test_lookups import remembering
from tests.eval.context.test_long_history import INTERVAL, W, plain_losses, searching
from tests.megacontext.sessions.test_session import VOCAB, new_session

__all__ = ["remembering"]

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n:,.?="
SIZE = 400


def encode(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text.lower()]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def probes(kind: str = "needle", variant: str = "single") -> list[HistoryProbe]:
    filler = np.random.default_rng(3).integers(len(LETTERS), VOCAB, 3000)
    every = draw_probes(encode, filler, [1600], depths(3))
    return [probe for probe in every if (probe.kind, probe.variant) == (kind, variant)]


def reader_of(model: SessionModel, trained: int = 64) -> SessionReader:
    return SessionReader(model, lambda: new_session(model).tree, trained)


def test_what_is_looked_up_is_remembered_and_a_random_model_knows_nothing(remembering: SessionModel) -> None:
    rows = tally(ask(reader_of(remembering), probes()), "kind")
    found = {row["condition"]: row for row in rows}
    assert set(found) == set(READS) - {"full"}
    assert found["session"]["accuracy"] > 0.7
    assert found["session"]["nll"] < found["context"]["nll"] - 1
    assert max(row["accuracy"] for name, row in found.items() if name != "session") < 0.3


def test_windows_are_the_plain_model(remembering: SessionModel) -> None:
    probe = probes()[0]
    found = dict(reader_of(remembering, trained=4000).read(probe))
    room, n = W - INTERVAL, probe.history
    sinks = min(SINKS, room // 2)
    shown = {
        "window": np.arange(n - room, n),
        "sink_window": np.concatenate([np.arange(sinks), np.arange(n - room + sinks, n)]),
        "full": np.arange(n),
    }
    for name, kept in shown.items():
        row = np.concatenate([probe.ids[kept], probe.ids[n:]])
        later = torch.from_numpy(probe.ids[n:])
        losses = torch.nn.functional.cross_entropy(found[name], later, reduction="none").numpy()
        assert np.allclose(losses, plain_losses(remembering.gpt, row, probe.answer), atol=1e-4)


def test_the_oracle_shows_what_tells_the_answer() -> None:
    model, probe = searching(), probes()[1]
    reader = reader_of(model)
    session = new_session(model)
    session.append(probe.ids[: probe.history])
    session.read()
    assert session.search is not None
    span = session.search.span
    best = {
        name: (np.flatnonzero(scores == scores.max()) * span).tolist()
        for name, scores in reader._choices(probe, session.tree, session)
    }
    start, stop = probe.told[0]
    assert best["oracle"] == list(range(start // span * span, stop, span))
    assert best["recency"] == [(probe.history // span - 1) * span]
    assert set(best) == {"random", "recency", "bm25", "oracle"}
    assert "session" not in dict(reader.read(probe))  # it has no lookup
