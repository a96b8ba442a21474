"""The loader: the same rows for any number of ranks, exact resume, every supervised token once."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from mccore.data.batches.loader import Loader, StepData, StepShape, stack_rows, validation_batches
from mccore.data.batches.rows import IGNORED, Position, Rows
from mccore.data.batches.store import Encoded, TokenSplit, build_store
from mccore.errors import DataError

T = 15


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TokenSplit:
    """300 documents; token ids tell document and place apart: every id occurs once."""
    rng = np.random.default_rng(0)
    documents, at = [], 0
    for number, length in enumerate(rng.integers(2, 60, 300).tolist()):
        documents.append(Encoded(str(number), np.arange(at, at + length)))
        at += length
    return build_store(tmp_path_factory.mktemp("text") / "s", {}, at, {"train": documents}).split("train")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> TokenSplit:
    """200 conversations, some longer than a row, some without a trained token within a row."""
    rng = np.random.default_rng(1)
    documents, at = [], 0
    for number, length in enumerate(rng.integers(2, 25, 200).tolist()):
        mask = rng.integers(0, 2, length)
        if number % 20 == 0:
            mask[: T + 1] = 0
        documents.append(Encoded(str(number), np.arange(at, at + length), mask))
        at += length
    return build_store(tmp_path_factory.mktemp("chat") / "s", {}, at, {"train": documents}).split("train")


def _rows(split: TokenSplit, **changes) -> Rows:
    return Rows(split, T, **{"seed": 5, "window_rows": 40, **changes})


def _chat_rows(split: TokenSplit, **changes) -> Rows:
    return _rows(split, **{"chat": "assistant", **changes})


def _steps(rows: Rows, count: int, *, ranks: int = 1, micro: int = 4, position: Position | None = None):
    """The first steps over all ranks: per step (inputs, targets) of all rows in order, and the data of rank 0."""
    parts = []
    for rank in range(ranks):
        loader = Loader(rows, StepShape(12, micro, rank, ranks), position=position)
        parts.append(list(islice(loader.steps(), count)))
    joined = []
    for step in zip(*parts, strict=True):
        batches = [batch for part in step for batch in part.batches]
        assert [batch.first_row for batch in batches] == sorted(batch.first_row for batch in batches)
        joined.append((torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches]), step[0]))
    return joined


def _same(left: list[tuple[torch.Tensor, torch.Tensor, StepData]], right) -> None:
    for (a, b, _), (c, d, _) in zip(left, right, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize("kind", ["text", "chat"])
@pytest.mark.parametrize(("ranks", "micro"), [(2, 4), (3, 4), (4, 3), (1, 5), (12, 1)])
def test_steps_are_the_same_on_any_ranks_and_micro_batch(
    text: TokenSplit, chat: TokenSplit, kind: str, ranks: int, micro: int
) -> None:
    rows = _rows(text) if kind == "text" else _chat_rows(chat)
    _same(_steps(rows, 30), _steps(rows, 30, ranks=ranks, micro=micro))


@pytest.mark.parametrize("kind", ["text", "chat"])
@pytest.mark.parametrize("at", [1, 7, 40])
def test_a_saved_position_goes_on_exactly_on_other_ranks(
    text: TokenSplit, chat: TokenSplit, kind: str, at: int
) -> None:
    def rows() -> Rows:
        return _rows(text) if kind == "text" else _chat_rows(chat)

    whole = _steps(rows(), at + 60)
    saved = Position.from_json(whole[at - 1][2].position.to_json())
    assert whole[-1][2].position.epoch > saved.epoch or at > 40
    _same(whole[at:], _steps(rows(), 60, ranks=2, micro=3, position=saved))


def test_position_is_small_and_checked() -> None:
    assert Position(2, 3, 4).to_json() == {"epoch": 2, "window": 3, "row": 4}
    for wrong in ({"epoch": -1}, {"epoch": "1"}, {"where": 0}, [1], None):
        with pytest.raises(DataError, match="no position"):
            Position.from_json(wrong)


def test_targets_are_the_next_tokens(text: TokenSplit) -> None:
    for inputs, targets, _ in _steps(_rows(text), 20):
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert (targets != IGNORED).all()


def test_an_epoch_of_text_predicts_no_token_twice_and_nearly_all(text: TokenSplit) -> None:
    rows = _rows(text)
    every = [row for row, position in _epoch(rows)]
    inputs, targets = stack_rows(rows, every)
    inside = targets == inputs + 1  # ids count up within a document
    first = torch.isin(targets, torch.tensor(np.asarray(text.offsets[:-1])))
    counts = Counter(targets[inside & ~first].tolist())
    assert max(counts.values()) == 1
    report = rows.report()
    assert report["utilization"] == 1.0
    assert report["rows"] == len(every) == rows.count()
    held = set(inputs.flatten().tolist()) | set(targets.flatten().tolist())
    assert report["lost"] == pytest.approx(1 - len(held) / len(text.tokens))
    assert report["lost"] < 0.05
    long = int(text.lengths[text.lengths > T + 1].sum())
    assert report["long"] == pytest.approx(long / len(text.tokens))


def _epoch(rows: Rows, epoch: int = 0):
    for row, position in rows.walk(Position(epoch)):
        if position.epoch > epoch:
            return
        yield row, position


def test_epochs_and_seeds_differ_in_order_only(text: TokenSplit) -> None:
    rows = _rows(text)
    first = [[tuple(piece) for piece in row] for row, _ in _epoch(rows, 0)]
    second = [[tuple(piece) for piece in row] for row, _ in _epoch(rows, 1)]
    other = [[tuple(piece) for piece in row] for row, _ in _epoch(_rows(text, seed=6), 0)]
    assert first != second
    assert first != other
    documents = {piece[0] for row in first for piece in row}
    assert len(documents ^ {piece[0] for row in second for piece in row}) <= 3


def test_rows_may_begin_in_the_middle_of_long_documents_only(text: TokenSplit) -> None:
    rows = _rows(text)
    for row, _ in _epoch(rows):
        assert row[0].start == 0 or text.lengths[row[0].document] > T + 1


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_every_supervised_token_is_trained_exactly_once_per_epoch(chat: TokenSplit, loss_on: str) -> None:
    rows = _chat_rows(chat, chat=loss_on)
    _, targets = stack_rows(rows, [row for row, _ in _epoch(rows)])
    trained = Counter(targets[targets != IGNORED].tolist())
    assert chat.mask is not None
    expected = set()
    for start, stop in zip(chat.offsets[:-1], chat.offsets[1:], strict=True):
        for at in range(start + 1, min(stop, start + T + 1)):
            if loss_on == "all" or chat.mask[at]:
                expected.add(int(chat.tokens[at]))
    assert set(trained) == expected
    assert set(trained.values()) == {1}
    assert rows.report()["trained_tokens"] == len(expected)


def test_chat_targets_follow_their_own_conversation(chat: TokenSplit) -> None:
    rows = _chat_rows(chat, chat="all")
    inputs, targets = stack_rows(rows, [row for row, _ in _epoch(rows)])
    trained = targets != IGNORED
    assert torch.equal(targets[trained], inputs[trained] + 1)


def test_no_chat_row_is_without_a_target_and_long_ones_dont_clog(chat: TokenSplit) -> None:
    rows = _chat_rows(chat)
    _, targets = stack_rows(rows, [row for row, _ in _epoch(rows)])
    assert (targets != IGNORED).any(dim=1).all()
    assert rows.truncated == int((chat.lengths > T + 1).sum())
    assert rows.unusable >= 10
    seen = {piece.document for row, _ in _epoch(rows) for piece in row}
    assert len(seen) == chat.documents - rows.unusable


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_step_targets_count_what_all_ranks_train(text: TokenSplit, chat: TokenSplit, kind: str) -> None:
    rows = _rows(text) if kind == "text" else _chat_rows(chat)
    for _, targets, step in _steps(rows, 10, ranks=3):
        assert {batch.step_targets for batch in step.batches} == {int((targets != IGNORED).sum())}


def test_passes_rise_steadily(text: TokenSplit) -> None:
    loader = Loader(_rows(text), StepShape(12, 12))
    passes = [step.epoch for step in islice(loader.steps(), 120)]
    assert passes == sorted(passes)
    per_epoch = _rows(text).count() / 12
    assert passes[-1] == pytest.approx(120 / per_epoch, rel=0.1)


def test_the_background_thread_gives_the_same_steps(text: TokenSplit) -> None:
    rows = _rows(text)
    expected = _steps(rows, 8)
    with Loader(_rows(text), StepShape(12, 4)) as loader:
        for inputs, targets, step in expected:
            data = loader.next()
            assert torch.equal(torch.cat([batch.inputs for batch in data.batches]), inputs)
            assert torch.equal(torch.cat([batch.targets for batch in data.batches]), targets)
            assert data.waited >= 0
            assert data.position == step.position  # of what was taken, not of what is ready
    assert loader._thread is not None
    assert not loader._thread.is_alive()


def test_what_goes_wrong_in_the_background_is_raised(text: TokenSplit) -> None:
    rows = _rows(text)

    def broken(*_: object) -> None:
        raise OSError("the disk went away")

    rows.fill = broken  # type: ignore[method-assign]
    with Loader(rows, StepShape(12, 4)) as loader, pytest.raises(OSError, match="went away"):
        loader.next()


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_validation_rows_are_fixed_and_dealt_out(text: TokenSplit, ranks: int) -> None:
    rows = _rows(text)
    whole = torch.cat([inputs for inputs, _ in validation_batches(rows, 40 * T, 7)])
    assert len(whole) == 40
    parts = [
        torch.cat([inputs for inputs, _ in validation_batches(rows, 40 * T, 3, rank=rank, world_size=ranks)])
        for rank in range(ranks)
    ]
    assert sorted(map(tuple, torch.cat(parts).tolist())) == sorted(map(tuple, whole.tolist()))


def test_validation_ends_with_the_data(text: TokenSplit) -> None:
    rows = _rows(text)
    count = sum(len(inputs) for inputs, _ in validation_batches(rows, 10**9, 32))
    assert count == rows.count()


def test_errors_say_what_to_do(tmp_path: Path, text: TokenSplit) -> None:
    small = build_store(tmp_path / "s", {}, 9, {"train": [Encoded("a", [1, 2, 3])]}).split("train")
    with pytest.raises(DataError, match="don't fill one row of 16"):
        _rows(small)
    with pytest.raises(DataError, match="no mask"):
        _rows(text, chat="assistant")
    with pytest.raises(DataError, match="don't divide among 5 ranks"):
        Loader(_rows(text), StepShape(12, 4, world_size=5))
