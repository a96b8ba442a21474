"""Alert rules for Prometheus: the bands of METRICS, each with its duration and what to look at next."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from mccore.events import METRICS, Metric
from mccore_telemetry.shared.names import prometheus_name
from mccore_telemetry.shared.values import EXTRA

_ACTIVE = f"and on (run) {prometheus_name(EXTRA['run_active'])} == 1"
# A gauge keeps its last value: of a stage that is over it says nothing any more.
_OF_A_STAGE_NOW = f"unless on (run, stage) {prometheus_name(EXTRA['stage_active'])} == 0"
# Other statistics of a metric and evaluations that are bad on purpose have series of their own.
_ITSELF = 'part="",condition=""'
_HEADER = """\
# Made by `python -m mccore_telemetry.operations docs/operations`; a test compares it with the code.
groups:
  - name: mccore
    rules:
"""


@dataclass(frozen=True)
class Rule:
    """One alert: `expression` holds for `hold` seconds."""

    name: str
    expression: str
    hold: float
    summary: str
    advice: str
    severity: str = "warning"

    def render(self) -> str:
        """The rule in YAML; its texts are JSON, which YAML reads."""
        lines = [
            f"      - alert: {self.name}",
            f"        expr: {json.dumps(self.expression)}",
            *([f"        for: {self.hold:g}s"] if self.hold else []),
            f"        labels: {{severity: {self.severity}}}",
            "        annotations:",
            f"          summary: {json.dumps(self.summary)}",
            f"          description: {json.dumps(f'Look at {self.advice}.')}",
        ]
        return "\n".join(lines) + "\n"


def rules() -> Iterator[Rule]:
    """One rule for every metric that has a band, then those about runs as such."""
    for row in METRICS.values():
        if row.band is not None:
            yield _band_rule(row)
    loss, failing = prometheus_name(METRICS["loss"]), prometheus_name(EXTRA["telemetry_failing"])
    yield Rule(
        "MccoreLossNotFinite",
        f"({loss} != {loss}) or (abs({loss}) == Inf)",
        0,
        "{{ $labels.run }}: the loss is no finite number",
        "the gradient norms before this step; a run ends itself then",
        "critical",
    )
    yield Rule(
        "MccoreTelemetryFailing",
        f"{failing} == 1",
        0,
        "{{ $labels.run }}: {{ $labels.provider }} can't deliver",
        "`mccore doctor telemetry`, and at the events of type telemetry of the run",
    )


def _band_rule(row: Metric) -> Rule:
    assert row.band is not None
    low, high = row.band
    value = expression(row)
    parts = [f"({value} {sign} {end:g})" for sign, end in ((">", high), ("<", low)) if math.isfinite(end)]
    if low == 0 and row.kind == "histogram":  # a time is never below
        parts = parts[:1]
    name = "".join(word.capitalize() for word in row.name.split("_"))
    return Rule(
        f"Mccore{name}",
        f"({' or '.join(parts)}) {_ACTIVE} {_OF_A_STAGE_NOW}",
        row.hold,
        f"{{{{ $labels.run }}}}: {row.name} is {{{{ $value }}}}, expected {_words(low, high)}",
        row.advice,
        "critical" if row.name == "heartbeat" else "warning",
    )


def expression(row: Metric) -> str:
    """What is compared with a band: of a gauge its value, of a histogram the 95th percentile of five minutes."""
    name = prometheus_name(row)
    if row.kind == "histogram":
        return f"histogram_quantile(0.95, sum by (run, stage, le) (rate({name}_bucket{{{_ITSELF}}}[5m])))"
    return f"{name}{{{_ITSELF}}}"


def _words(low: float, high: float) -> str:
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def render() -> str:
    """The whole file."""
    return _HEADER + "".join(rule.render() for rule in rules())
