"""What plugins rely on changes only together with a line of the changelog."""

from __future__ import annotations

from tests.house.seam import FROZEN, surface
from tests.house.sources import ROOT


def test_what_plugins_rely_on_is_as_frozen() -> None:
    frozen = FROZEN.read_text(encoding="utf-8").splitlines()
    assert surface() == frozen, (
        "say in CHANGELOG.md what changed for authors of plugins, then run python -m tests.house.seam"
    )
    assert len(frozen) > 150


def test_the_changelog_is_of_the_version_that_is_built() -> None:
    from importlib.metadata import version

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {version('mccore')}" in text
