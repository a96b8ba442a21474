"""The sixteen colours by their names, as they can be read on a light background, with a shade behind them too."""

from __future__ import annotations

from rich.terminal_theme import TerminalTheme

ON_LIGHT = TerminalTheme(
    (224, 224, 224),
    (30, 30, 30),
    [
        (20, 20, 20), (165, 20, 20), (15, 95, 25), (120, 75, 0), (25, 60, 170), (125, 25, 125), (0, 85, 105), (70, 70, 70),
    ],
    [
        (105, 105, 105), (165, 15, 15), (15, 95, 25), (120, 75, 0), (25, 60, 170), (125, 25, 125), (0, 85, 105), (40, 40, 40),
    ],
)  # fmt: skip
