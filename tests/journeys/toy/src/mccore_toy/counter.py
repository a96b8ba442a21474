"""How many alerts a run has had, and the newest checkpoint."""

from mccore.api import Extension, Span
from mccore.hookspecs import hookimpl


class Counter:
    title = "Counter"
    place = "screen"
    reads = ("alert", "checkpoint")

    def __init__(self, options, spec):
        self.directory = spec.directory

    def draw(self, view, width, height):
        alerts, checkpoints = view.events("alert"), view.events("checkpoint")
        lines = [[Span(f"{len(alerts)} alerts in {view.run}", "bad" if alerts else "good")]]
        if checkpoints:
            lines.append([Span(str(checkpoints[-1].data["path"]))])
        return lines[:height]


@hookimpl
def mccore_panel():
    return Extension(build=Counter, summary="counts alerts")
