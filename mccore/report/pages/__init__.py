"""The parts of report.md."""
