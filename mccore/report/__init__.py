"""A run directory becomes report.md, report.json and plots. No torch."""
