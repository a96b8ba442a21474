"""What a batch of sessions raises where some of them fail."""

from __future__ import annotations


class RowsFailed(Exception):
    """Sessions of a batch couldn't read on, each for a reason of its own: `errors` by row. The others wait for their pass."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        super().__init__("; ".join(f"row {row}: {error}" for row, error in errors.items()))
        self.errors = errors
