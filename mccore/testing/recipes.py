"""The contract of `mccore.api.Recipe` as tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mccore import plugins
from mccore.api import Recipe
from mccore.config import RunConfig
from mccore.resolve.resolve import resolve


class RecipeSuite:
    """Subclass it and override `recipe`."""

    def recipe(self) -> Recipe:
        """What your `mccore_recipe` hook returns. Override this."""
        raise NotImplementedError(f"{type(self).__name__} has to override recipe() and return what the hook returns")

    def test_is_a_recipe(self) -> None:
        recipe = self.recipe()
        assert isinstance(recipe, Recipe)
        assert isinstance(recipe.config, RunConfig)

    def test_has_a_summary(self) -> None:
        summary = self.recipe().summary
        assert summary.strip(), "the summary is what `mccore plugins` shows"
        assert "\n" not in summary, "the summary is one line"

    def test_config_survives_a_file(self) -> None:
        config = self.recipe().config
        assert RunConfig.from_json(config.to_json()) == config

    def test_is_the_same_every_time(self) -> None:
        assert self.recipe() == self.recipe(), "a recipe is a value: nothing of the machine or the hour belongs in it"

    def test_resolves_to_a_complete_run(self) -> None:
        config = self.resolve()
        assert config.model.n_embd > 0, "the width wasn't derived"
        assert config.stages, "a recipe without stages does nothing"
        assert RunConfig.from_json(config.to_json()) == config

    def test_every_profile_resolves(self) -> None:
        for profile in self.recipe().profiles:
            assert profile.strip(), "a profile without a name can't be chosen by --gpu"
            config = self.resolve(profile)
            assert config.hardware.gpu == profile
            assert RunConfig.from_json(config.to_json()) == config

    def test_resolves_with_megacontext(self) -> None:
        assert self.resolve(flags={"megacontext.enabled": True}).megacontext.enabled

    def resolve(self, profile: str | None = None, flags: Mapping[str, Any] | None = None) -> RunConfig:
        """The recipe as `mccore run` resolves it; plugins that it chooses have to be installed."""

        def load(kind: plugins.KindName, name: str) -> Any:
            return self.recipe() if kind == "recipe" else plugins.load(kind, name)

        return resolve("under-test", gpu=profile, flags=flags, load=load)
