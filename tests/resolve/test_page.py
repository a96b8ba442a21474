"""docs/settings.md is what the schema says."""

from __future__ import annotations

from pathlib import Path

from mccore.config import RunConfig, walk_settings
from mccore.resolve.page import render_page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == render_page(), "write it again: python -m mccore.resolve.page > docs/settings.md"


def test_every_setting_stands_there_once() -> None:
    page = render_page()
    paths = [one.path for one in walk_settings(RunConfig) if one.path not in ("schema_version", "recipe")]
    assert [path for path in paths if page.count(f"| `{path}` |") != 1] == []


def test_a_row_says_default_values_flags_and_needs() -> None:
    rows = {line.split("`")[1]: line for line in render_page().splitlines() if line.startswith("| `")}
    lens = rows["megacontext.lens.rank_margin"]
    assert "| `0.5` | 0 to 1e+09 |" in lens
    assert "`--mc-lens-rank-margin`" in lens
    assert "`megacontext.lens.target` is `preference` or `both`; `megacontext.lens.rank_weight` above 0" in lens
    assert "| *derived* | 1 to 67,108,864 |" in rows["megacontext.wc_length"]
    assert "| `0.2` |" in rows["mid.warmdown_ratio"]  # the stage's own default, not that of its class
    assert "| `0.5` |" in rows["sft.warmdown_ratio"]
