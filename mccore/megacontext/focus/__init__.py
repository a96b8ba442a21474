"""One refocus: score, plan, check, apply, measure."""
