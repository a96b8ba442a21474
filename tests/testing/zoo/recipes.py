"""Recipes that are wrong in one way each, and a healthy one: see test_suites.py."""

from __future__ import annotations

import itertools
from typing import Any

from mccore.api import Recipe
from mccore.config import ChatTrainConfig, Choice, MegaContextConfig, ModelConfig, RunConfig
from mccore.testing import RecipeSuite

MIXTURE = ChatTrainConfig(mixture={"stdlib_qa": 10})
CONFIG = RunConfig(model=ModelConfig(depth=2), mid=MIXTURE, sft=MIXTURE)
_turn = itertools.count(2)


class TestHealthyRecipe(RecipeSuite):
    def recipe(self) -> Recipe:
        return Recipe(CONFIG, "a recipe of the zoo", {"small": {"model.depth": 1}, "h100": {"hardware.nproc": 8}})


class TestUnknownSetting(RecipeSuite):
    caught_by = "test_every_profile_resolves"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG, "a profile with a typing error", {"small": {"model.dept": 1}})


class TestInvalidValue(RecipeSuite):
    caught_by = "test_every_profile_resolves"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG, "a profile with a wrong value", {"small": {"model.depth": "shallow"}})


class TestUnknownPluginOption(RecipeSuite):
    caught_by = "test_resolves_with_megacontext"

    def recipe(self) -> Recipe:
        greedy = Choice(name="greedy", options={"recent_token": 3})
        return Recipe(CONFIG.model_copy(update={"megacontext": MegaContextConfig(allocator=greedy)}), "a wrong option")


class TestUnknownPlugin(RecipeSuite):
    caught_by = "test_resolves_to_a_complete_run"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG.model_copy(update={"telemetry": (Choice(name="no-such-provider"),)}), "a missing plugin")


class TestMoody(RecipeSuite):
    caught_by = "test_is_the_same_every_time"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG.model_copy(update={"seed": next(_turn)}), "another one at each look")


class TestUnsaidRecipe(RecipeSuite):
    caught_by = "test_has_a_summary"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG)


class TestNoRecipe(RecipeSuite):
    caught_by = "test_is_a_recipe"

    def recipe(self) -> Any:
        return CONFIG


class TestHalfARecipe(RecipeSuite):
    """Values that the schema was never asked about."""

    caught_by = "test_config_survives_a_file"

    def recipe(self) -> Recipe:
        return Recipe(CONFIG.model_copy(update={"seed": -1}), "unvalidated values")
