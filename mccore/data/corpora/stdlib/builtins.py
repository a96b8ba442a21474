"""Docstrings of what the standard library has written in C, asked of a fresh, isolated interpreter.

A running program may have replaced such objects (`sys.excepthook`, `time.time`) and may sit in a folder with a `grp.py` of its
own. So this file is also a script, which
`written_in_c` runs with `python -I -S`; it may import the standard library only.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from typing import Any

# Importing any of them only defines names.
C_MODULES = (
    "array", "atexit", "binascii", "builtins", "cmath", "errno", "faulthandler", "fcntl", "gc", "grp", "itertools",
    "marshal", "math", "mmap", "pwd", "resource", "select", "sys", "syslog", "termios", "time", "unicodedata", "zlib",
    "_bisect", "_codecs", "_collections", "_csv", "_datetime", "_functools", "_heapq", "_io", "_operator", "_random",
    "_signal", "_socket", "_struct", "posix",
)  # fmt: skip

Described = dict[str, Any]  # module -> {"doc", "names", "objects": [[qualname, kind, signature, doc], ...]}


def written_in_c() -> Described:
    """What `describe` gives in a fresh interpreter of this version; RuntimeError with its words when that fails."""
    done = subprocess.run([sys.executable, "-I", "-S", __file__], capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        raise RuntimeError(f"exit status {done.returncode}, {done.stderr.strip()[-300:]}")
    described: Described = json.loads(done.stdout)
    return described


def describe() -> Described:
    """Docstring, public names and documented objects of each C module that this platform's Python has."""
    modules = {}
    for name in C_MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        public = {key: value for key, value in sorted(vars(module).items()) if not key.startswith("_")}
        objects = [row for key, value in public.items() for row in _objects(name, key, value)]
        modules[name] = {"doc": module.__doc__ or "", "names": sorted(public), "objects": objects}
    return modules


def _objects(module: str, name: str, value: object) -> list[list[str]]:
    if inspect.isbuiltin(value):
        return _object(name, value, "function")
    # An alias such as socket.error has another name of its own.
    if not isinstance(value, type) or value.__name__ != name:
        return []
    rows = _object(name, value, "class")
    for attribute, member in sorted(vars(value).items()):
        if not attribute.startswith("_") and callable(member):
            rows += _object(f"{name}.{attribute}", member, "method")
    return rows


def _object(qualname: str, value: Any, kind: str) -> list[list[str]]:
    doc = getattr(value, "__doc__", None)
    if not isinstance(doc, str) or not doc.strip():
        return []
    # `inspect.signature` would evaluate the defaults, which depends on what is imported and on the version.
    signature = getattr(value, "__text_signature__", None)
    if signature:
        signature = re.sub(r"^\(\$\w+(?:, /)?(?:, )?", "(", " ".join(signature.split()))
    else:
        last = re.escape(qualname.rsplit(".", 1)[-1])
        written = re.match(rf"\s*(?:\w+\.)?{last}(\([^()\n]*\))", doc)
        signature = written.group(1) if written else "(...)"
    return [[qualname, kind, re.sub(r"<[^<>]*>", "...", signature), doc]]


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    json.dump(describe(), sys.stdout)
