"""The shape of report.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Data = Mapping[str, Any]  # read
Record = dict[str, Any]  # made
