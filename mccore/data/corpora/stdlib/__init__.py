"""The embedded corpus: the Python standard library of the interpreter that runs."""
