"""The part of a report on reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mccore.config.stages import STAGE_TABLE
from mccore.report.pages.markdown import table
from mccore.report.pages.words import mean_text, percent_text
from mccore.report.shape import Results, RewardEntry


def reward_lines(results: Results, means: Mapping[str, RewardEntry]) -> Iterable[str]:
    """What models learned from rewards: pass@k on held-out questions before and after, and the reward itself."""
    for spec in STAGE_TABLE:
        result = results.get(spec.name) if spec.rollouts else None
        if not result or not result.get("before") or not result.get("after"):
            continue
        before, after = result["before"], result["after"]
        yield "## Reinforcement learning"
        yield (
            f"{result['questions']:,} questions, asked {result['epoch']:.2f} times. pass@k is how often one of k drawn replies "
            f"is right, on {after['questions']:,} held-out questions with {after['samples']} replies each; with the standard "
            "error over the questions."
        )
        yield table(("task", "", "before", "after"), _rows(before, after))
        if rewards := means.get(spec.name):
            first, last = percent_text(rewards["first"]), percent_text(rewards["last"])
            yield f"Mean reward of the first {rewards['steps']} steps {first}, of the last {last}."


def _rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    tasks = after["tasks"] if len(after["tasks"]) > 1 else {}
    parts = [("all", before, after), *((name, before["tasks"].get(name), one) for name, one in tasks.items())]
    for name, early, late in parts:
        for k, value in late["pass_at"].items():
            yield (name, f"pass@{k}", mean_text(early["pass_at"][k]) if early else "", mean_text(value))
