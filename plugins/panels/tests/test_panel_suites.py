"""The built-in panels under the suite that any panel is tested with, and what each shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mccore_panels import controller, lod_map, residency, swap_rate

from mccore.api import Extension, Panel, PanelSpec
from mccore.testing import PanelSuite, example_view


class TestController(PanelSuite):
    def extension(self) -> Extension[Panel]:
        return controller.mccore_panel()


class TestLodMap(PanelSuite):
    def extension(self) -> Extension[Panel]:
        return lod_map.mccore_panel()


class TestResidency(PanelSuite):
    def extension(self) -> Extension[Panel]:
        return residency.mccore_panel()


class TestSwapRate(PanelSuite):
    def extension(self) -> Extension[Panel]:
        return swap_rate.mccore_panel()


def drawn(extension: Extension[Panel], **view: Any) -> list[str]:
    panel = extension.build(extension.options(), PanelSpec(Path("run")))
    return ["".join(span.text for span in line) for line in panel.draw(example_view(**view), 60, 12)]


def test_the_map_has_every_level_and_says_how_much_of_each() -> None:
    lines = drawn(lod_map.mccore_panel())
    assert lines[0] == "70/128 entries over 640 tokens"
    assert set("█▓▒") <= set("".join(lines[1:-1]))
    assert "#" in "".join(drawn(lod_map.mccore_panel(), ascii_only=True)[1:-1])


@pytest.mark.parametrize(("extension", "metric"), [(swap_rate, "swap_rate"), (residency, "residency")])
def test_a_curve_says_what_to_look_at_outside_its_band(extension: Any, metric: str) -> None:
    inside, outside = ({metric: value} for value in ({"swap_rate": 0.1, "residency": 0.95}[metric], 0.6))
    assert "outside" not in drawn(extension.mccore_panel(), last=inside)[-1]
    assert "outside" in drawn(extension.mccore_panel(), last=outside)[-1]
