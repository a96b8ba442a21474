"""The regression test of the algorithm: trained on synthetic recall, gists carry, expansion recovers and LensNet finds.

One fixed seed, about half a minute on an idle core. `benchmarks/recall.py` runs all settings and seeds; docs/RESULTS.md has
the figures.
"""

from __future__ import annotations

import pytest
import torch

from mccore.data.recall import RecallTask, alias_of, draw_recall
from mccore.eval.context.recall import SETTINGS, run_recall


@pytest.fixture
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_gists_carry_expansion_recovers_and_lensnet_finds(one_thread: object) -> None:
    found = run_recall(SETTINGS["k8"], seed=0)
    print({name: round(value, 3) for name, value in found.items()})
    assert found["full"] >= 0.95, "the model itself doesn't recall"
    assert found["window"] <= 0.12, "the answer is in the window"
    assert found["gists"] >= found["window"] + 0.40, "gists carry too little"
    assert found["swapped"] <= found["window"] + 0.05, "what gists seem to carry isn't their own block's"
    assert found["oracle"] >= 0.95, "expanding the right blocks doesn't recover the answer"
    assert found["lens"] >= 0.93
    assert found["lens_recall"] >= 0.90
    assert found["lens"] >= found["random"] + 0.20
    assert found["lens"] >= found["recency"] + 0.20


# --- the task itself --------------------------------------------------------------------------------------------------

TASKS = (
    RecallTask(),
    RecallTask(block_size=32, facts=8, keys=160, answered=24),
    RecallTask(alias=True),
    RecallTask(blocks=64, facts=1, keys=96, asked=2),
)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.blocks}x{task.block_size}")
def test_every_answer_lies_once_in_its_block_and_nowhere_near(task: RecallTask) -> None:
    drawn = draw_recall(task, 50, torch.Generator().manual_seed(0))
    assert drawn.inputs.shape == (50, task.tokens)
    aliases = alias_of(task)
    for row in range(50):
        tokens = drawn.inputs[row]
        blocks = tokens[: task.far].view(task.blocks, task.block_size)
        for at, block in zip(drawn.answer_at[row].tolist(), drawn.answer_block[row].tolist(), strict=True):
            key, answer = tokens[at], drawn.targets[row, at]
            stored = aliases[key] if task.alias else key
            places = (blocks == stored).nonzero()
            assert places.tolist() == [[block, places[0, 1].item()]], (
                "a fact stands once, in the block it is said to be in"
            )
            assert blocks[block, places[0, 1] + 1] == answer
            answered = tokens[task.far : task.far + 2 * task.answered : 2]
            assert not (answered == key).any(), "an asked key must not be answered in the window"
        assert len(drawn.answer_block[row].unique()) == task.spread
        assert drawn.weights[row, drawn.answer_at[row]].min() == 1.0


def test_the_same_generator_draws_the_same_rows_and_another_draws_others() -> None:
    first, second, other = (draw_recall(RecallTask(), 8, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.inputs, second.inputs)
    assert not torch.equal(first.inputs, other.inputs)


@pytest.mark.parametrize(
    "sizes", [{"facts": 5}, {"keys": 8}, {"asked": 5}, {"asked": 1}, {"answered": 30}, {"spread": 17, "asked": 17}]
)
def test_impossible_tasks_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"fact|keys|blocks"):
        RecallTask(**sizes)
