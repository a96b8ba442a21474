"""The plots of a report; the only place for matplotlib."""
