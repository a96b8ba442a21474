"""The package's own tests, as its author would write them: the suites of mccore.testing, subclassed."""

from mccore_toy import chunks, counter, larger, oldest, recipe, tally

from mccore.testing import (
    AllocatorSuite,
    PanelSuite,
    RecipeSuite,
    TaskSuite,
    TelemetryProviderSuite,
    TreeBackendSuite,
)


class TestOldest(AllocatorSuite):
    def extension(self):
        return oldest.mccore_allocator()


class TestEagerOldest(TestOldest):
    def options(self):
        return oldest.OldestOptions(keep_tokens=5, eager=True)


class TestChunks(TreeBackendSuite):
    def extension(self):
        return chunks.mccore_tree_backend()


class TestCounter(PanelSuite):
    def extension(self):
        return counter.mccore_panel()


class TestTally(TelemetryProviderSuite):
    def extension(self):
        return tally.mccore_telemetry_provider()


class TestRecipe(RecipeSuite):
    def recipe(self):
        return recipe.mccore_recipe()


class TestLarger(TaskSuite):
    def extension(self):
        return larger.mccore_task()
