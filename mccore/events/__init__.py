"""Events: what a run writes as it happens, the table of metrics, and who writes and follows the files."""

from mccore.events.alerts import Alert, AlertWatch, find_alerts
from mccore.events.event import Event, check_event, finite
from mccore.events.log import EventTail, EventWriter, last_metrics, read_events
from mccore.events.metrics import METRICS, Metric, metric
from mccore.events.types import EVENT_TYPES, EVENT_VERSION, EventType, Field

__all__ = [
    "EVENT_TYPES", "EVENT_VERSION", "METRICS", "Alert", "AlertWatch", "Event", "EventTail", "EventType", "EventWriter",
    "Field", "Metric", "check_event", "find_alerts", "finite", "last_metrics", "metric", "read_events",
]  # fmt: skip
