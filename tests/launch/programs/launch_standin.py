"""Launch a run with the stand-in worker: `launch_standin.py RUN_DIRECTORY [NPROC]`. Prints the outcome as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from mccore.errors import MccoreError
from mccore.events import Event
from mccore.launch.command import effective_hardware
from mccore.launch.launcher import launch
from mccore.runs.rundir import RunDir


class Lines:
    def event(self, event: Event) -> None:
        print(event.to_json(), flush=True)

    def notice(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def tick(self) -> None:
        pass


def main() -> int:
    run = RunDir(Path(sys.argv[1]))
    hardware = effective_hardware(run, {"nproc": int(sys.argv[2])} if len(sys.argv) > 2 else {})
    try:
        outcome = launch(run, hardware=hardware, listener=Lines(), worker="standin_worker", grace_seconds=2.0)
    except MccoreError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    print(json.dumps({name: value for name, value in asdict(outcome).items() if name != "hint" or value}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
