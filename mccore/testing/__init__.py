"""Conformance suites for plugins: subclass one in a test file, return your extension, run pytest.

    from mccore.testing import AllocatorSuite
    from my_package.my_allocator import mccore_allocator

    class TestMyAllocator(AllocatorSuite):
        def extension(self):
            return mccore_allocator()

The suites are the contracts of `mccore.api` as tests; mccore's own plugins pass the same ones. They need pytest.
"""

from __future__ import annotations

import pytest

# Suites are imported from an installed package, where pytest would otherwise report a bare "assert False".
pytest.register_assert_rewrite(
    "mccore.testing.allocators",
    "mccore.testing.extensions",
    "mccore.testing.panels",
    "mccore.testing.recipes",
    "mccore.testing.telemetry",
    "mccore.testing.stored_trees",
    "mccore.testing.tasks",
    "mccore.testing.trees",
)

from mccore.testing.allocators import AllocatorSuite, random_cut, random_found, random_view  # noqa: E402
from mccore.testing.panels import PanelSuite, example_view  # noqa: E402
from mccore.testing.recipes import RecipeSuite  # noqa: E402
from mccore.testing.stored_trees import example_rows  # noqa: E402
from mccore.testing.tasks import TaskSuite  # noqa: E402
from mccore.testing.telemetry import TelemetryProviderSuite, example_events  # noqa: E402
from mccore.testing.trees import TreeBackendSuite  # noqa: E402

__all__ = [
    "AllocatorSuite",
    "PanelSuite",
    "RecipeSuite",
    "TaskSuite",
    "TelemetryProviderSuite",
    "TreeBackendSuite",
    "example_events",
    "example_rows",
    "example_view",
    "random_cut",
    "random_found",
    "random_view",
]
