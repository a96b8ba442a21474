"""The node that people start by hand from the page on OpenSearch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import opensearch_node


def test_what_is_missing_is_told_in_a_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, opensearch_node.__file__],
        env={**os.environ, "MCCORE_SERVERS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
