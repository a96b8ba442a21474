"""What recipes and plugins say of themselves, by the real command and by one that fails."""

from __future__ import annotations

import asyncio

import pytest

from mccore.tui.facts import Facts
from mccore.tui.form import Form


def learn(form: Form) -> Facts:
    facts = Facts()

    async def all_of_it() -> None:
        while await facts.learn(form):
            pass

    asyncio.run(all_of_it())
    return facts


def test_the_recipe_and_the_plugins_that_it_uses() -> None:
    form = Form("run10", megacontext=True, tree="disk", telemetry=("prometheus",))
    facts = learn(form)
    assert "h100" in facts.profiles(form)
    assert facts.values(form)["recipe"] == "run10"
    paths = {each.path for each in facts.options(form)}
    assert "megacontext.tree.options.fsync" in paths
    assert "megacontext.allocator.options.recent_tokens" in paths  # the recipe's own allocator
    assert any(path.startswith("telemetry.prometheus.options.") for path in paths)
    form.megacontext = False
    assert {each.path.partition(".")[0] for each in facts.options(form)} == {"telemetry"}


@pytest.mark.parametrize("said", ["", "[]", "{", '{"options": 3}', '{"options": [{}], "config": 3, "profiles": [1]}'])
def test_what_cannot_be_understood_is_left_out(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(arguments: list[str]) -> tuple[int, str, str]:
        return 0, said, ""

    monkeypatch.setattr("mccore.tui.actions.answer", answer)
    form = Form("tiny", megacontext=True, allocator="greedy", telemetry=("otel",))
    facts = learn(form)
    assert (facts.options(form), facts.profiles(form), facts.values(form)) == ([], [], {})
