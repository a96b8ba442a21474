"""Numbers as people read them: counts, sizes, durations, and how sure a share is."""

from __future__ import annotations

import math

_Z = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations


def count(value: float) -> str:
    """1234567 as `1.23M`."""
    if (odd := _odd(value)) is not None:
        return odd
    if abs(value) < 9999.5:
        return f"{value:,.0f}"
    for limit, letter in ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        if abs(value) < 999.5 * limit:  # what rounds to 1,000 of a unit is 1 of the next
            return f"{value / limit:.3g}{letter}"
    return f"{value / 1e15:.3g}P"


def size(value: float) -> str:
    """Bytes as `1.5 GiB`."""
    if (odd := _odd(value)) is not None:
        return odd
    for limit, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if value >= limit * (1 - 0.05 / 1024):
            return f"{value / limit:.1f} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Seconds as `2d 3h`, `1h 05m`, `3m 20s` or `4.2s`."""
    if (odd := _odd(seconds)) is not None:
        return odd
    if seconds < 59.95:  # what rounds to 60.0 is a minute
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def number(value: float) -> str:
    """A metric's value with enough digits to compare."""
    if (odd := _odd(value)) is not None:
        return odd
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def share_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen in `n` trials (Wilson, 1927): it holds at none, at all and at one of `n`.

    `p (1 - p) / n` says there is no error where all trials came out alike; this interval says how little is known then.
    """
    z2 = _Z * _Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def _odd(value: float) -> str | None:
    """How a value that is no finite number of reasonable size is shown; None for all others."""
    try:
        value = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return "-inf" if value < 0 else "inf"
    return None if math.isfinite(value) else str(value)
