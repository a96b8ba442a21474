"""A table whose columns are as wide as what is in them, whenever it is painted."""

from __future__ import annotations

from collections.abc import Iterable

from textual.widgets import DataTable
from textual.widgets.data_table import RowKey

__all__ = ["Table"]


class Table(DataTable[object]):
    """The library measures new rows when nothing else is to do, and keeps lines that were painted before that: cut to the widths
    of then (findings/textual-table-keeps-lines-of-old-widths.sh)."""

    def _update_dimensions(self, new_rows: Iterable[RowKey]) -> None:
        super()._update_dimensions(new_rows)
        self._clear_caches()
        self.refresh()
