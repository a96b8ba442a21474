"""The stage that writes the report of a run."""

from __future__ import annotations

from mccore.runtime.runtime import Runtime
from mccore.stages.prepare import Results


def report(runtime: Runtime) -> Results:
    """Write the report of the run."""
    from mccore.report.write import write_report

    write_report(runtime.run)
    return {"path": runtime.run.report_dir.relative_to(runtime.run.path).as_posix()}
