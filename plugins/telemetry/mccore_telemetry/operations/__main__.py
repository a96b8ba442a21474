"""Write the files for operators into a directory."""

from __future__ import annotations

import sys
from pathlib import Path

from mccore_telemetry.operations import files


def main() -> None:
    """Write each file where it belongs below the directory that is named."""
    for name, text in files().items():
        path = Path(sys.argv[1]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
