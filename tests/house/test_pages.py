"""What pages of docs say is tested is tested: every test that docs/nanochat-bugs.md names exists."""

from __future__ import annotations

import ast
import re

from tests.house.sources import ROOT

_NAMED = re.compile(r"`(tests/[\w/]+(?:\.py)?)?(?:::(\w+))?`")


def test_tests_that_the_page_of_bugs_names_exist() -> None:
    page = (ROOT / "docs" / "nanochat-bugs.md").read_text(encoding="utf-8")
    path, named, missing = "", 0, []
    for file, test in _NAMED.findall(page):
        path = file or path
        if not (ROOT / path).exists():
            missing.append(path)
        elif test:
            named += 1
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            missing += [f"{path}::{test}"] * (test not in {getattr(node, "name", "") for node in ast.walk(tree)})
    assert missing == []
    assert named > 30


def test_every_bug_has_an_answer() -> None:
    page = (ROOT / "docs" / "nanochat-bugs.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 40
    assert [row[0] for row in rows if len(row) != 2 or not row[1].strip()] == []
