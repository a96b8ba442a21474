"""The client of the node: what of it is loaded."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from mccore_telemetry.opensearch import OpenSearchOptions, connect
connect(OpenSearchOptions(), "http://127.0.0.1:1", None, None).close()
print("aiohttp" in sys.modules)
import aiohttp
print(aiohttp.ClientSession.__name__)
"""


def test_its_asynchronous_part_isnt_loaded_and_others_may_load_theirs() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "ClientSession"]
