"""The interpreter's own standard library as text: module sources, documentation topics, and who is related to whom.

The embedded default corpus: real English and code with long-range structure, on every machine that can run mccore, without a
network. Everything is read from files; the only module imported is `pydoc_data.topics`, which is one dictionary.
"""

from __future__ import annotations

import io
import os
import re
import string
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mccore.data.corpora.document import GROUP_VAL_SHARE, hash_share
from mccore.errors import DataError

TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "lib-dynload", "_bundled", "pydoc_data"})
# Written at build or install time: they hold this machine's paths, not the library's text.
_MACHINE_FILES = re.compile(r"^(_sysconfigdata.*|_sysconfig_vars.*|sitecustomize|usercustomize|.*python-config)\.py$")
# Nearly all of `encodings` is character tables and one boilerplate repeated per codec.
_ENCODINGS_KEPT = frozenset({"encodings/__init__.py", "encodings/idna.py", "encodings/punycode.py"})
# Below this share of letters and blanks a file is a table of numbers or escapes (html/entities.py, stringprep.py).
_MIN_LETTER_SHARE = 0.6
_MIN_FILE_BYTES = 200
_LETTERS = (string.ascii_letters + " ").encode()

# Modules that implement, wrap or rewrite one another hold the same sentences, so a split keeps them together.
# Leading underscores don't count.
_FAMILIES = {
    "asyncio": "concurrent",
    "builtins": "string types pylong",
    "calendar": "datetime pydatetime strptime time zoneinfo",
    "cgi": "cgitb",
    "code": "codeop pyrepl",
    "collections": "abc collections_abc py_abc contextlib",
    "dbm": "shelve",
    "decimal": "pydecimal",
    "dis": "opcode opcode_metadata",
    "gzip": "bz2 compression lzma tarfile zipfile zlib",
    "importlib": "imp modulefinder pkgutil runpy zipimport",
    "inspect": "pydoc",
    "io": "pyio",
    "os": "fnmatch genericpath glob ntpath pathlib posix posixpath shutil",
    "pdb": "bdb cmd",
    "pickle": "compat_pickle copyreg pickletools",
    "pstats": "cProfile profile",
    "re": "sre_compile sre_constants sre_parse",
    "site": "sitebuiltins",
    "socket": "asynchat asyncore smtpd socketserver ssl",
    "sysconfig": "aix_support android_support apple_support bootsubprocess distutils ios_support osx_support",
    "threading": "dummy_thread dummy_threading interpreters multiprocessing queue threading_local",
    "tokenize": "lib2to3 token",
    "turtle": "turtledemo",
    "urllib": "http nturl2path wsgiref xmlrpc",
    "weakref": "weakrefset",
}
_FAMILY_OF = {member: family for family, members in _FAMILIES.items() for member in members.split()}


@dataclass(frozen=True)
class SourceFile:
    """One module of the standard library: `path` relative to its root, dotted `module` name, decoded `text`."""

    path: str
    module: str
    text: str


def stdlib_root() -> Path:
    """The directory that holds this interpreter's standard library; DataError when there is none to read."""
    root = Path(sysconfig.get_paths()["stdlib"])
    if not (root / "os.py").is_file():
        raise DataError(
            f"the sources of the standard library aren't at {root}",
            hint="use a Python installed with its library's .py files, or another corpus such as text:PATH",
        )
    return root


@lru_cache(maxsize=2)
def source_files(with_tests: bool = False) -> tuple[SourceFile, ...]:
    """The library's modules in the order of their paths, without test suites unless `with_tests`.

    Left out: installed packages, files written by the installation, character tables, files that aren't valid text in
    their declared encoding (fixtures of the test suites), and stubs under 200 bytes.
    """
    root = stdlib_root()
    return tuple(sorted(_read_tree(root, with_tests), key=lambda file: file.path))


def _read_tree(root: Path, with_tests: bool) -> Iterator[SourceFile]:
    skipped = _FOREIGN_FOLDERS if with_tests else _FOREIGN_FOLDERS | TEST_FOLDERS
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in skipped and not name.startswith("config-")]
        for name in names:
            if name.endswith(".py") and not _MACHINE_FILES.match(name):
                file = _read_source(root, Path(folder, name))
                if file is not None:
                    yield file


def _read_source(root: Path, path: Path) -> SourceFile | None:
    relative = path.relative_to(root)
    name = relative.as_posix()
    if name.startswith("encodings/") and name not in _ENCODINGS_KEPT:
        return None
    data = path.read_bytes()
    if len(data) < _MIN_FILE_BYTES or _letter_share(data) < _MIN_LETTER_SHARE:
        return None
    text = _decode(data)
    return None if text is None else SourceFile(name, _module_name(relative), text)


def _decode(data: bytes) -> str | None:
    """A source's text by its PEP 263 declaration with `\\n` line ends, or None when it isn't valid in that encoding."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _letter_share(data: bytes) -> float:
    return 1 - len(data.translate(None, _LETTERS)) / len(data)


def _module_name(relative: Path) -> str:
    parts = list(relative.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


@lru_cache(maxsize=1)
def topics() -> dict[str, str]:
    """pydoc's language topics (`help("LAMBDAS")`): English prose by topic name, in sorted order."""
    try:
        from pydoc_data.topics import topics as table
    except ImportError as error:
        raise DataError(
            "this Python comes without pydoc_data.topics",
            hint="install the distribution's full Python (on Debian: python3-doc or the libpython3-stdlib package)",
        ) from error
    return {name: table[name] for name in sorted(table)}


def group_of(module: str) -> str:
    """The package that `module` is kept together with when a corpus is split: its top-level name, or a relative's.

    >>> group_of("email.mime.text"), group_of("_pydecimal"), group_of("posixpath"), group_of("test.test_decimal")
    ('email', 'decimal', 'os', 'decimal')
    """
    parts = module.split(".")
    top = (parts[1].removeprefix("test_") if parts[0] == "test" and len(parts) > 1 else parts[0]).lstrip("_")
    return family_of(top)


def family_of(name: str) -> str:
    """The package that a top-level module is a relative of, or the module itself.

    >>> family_of("zipfile"), family_of("json")
    ('gzip', 'json')
    """
    return _FAMILY_OF.get(name, name)


def in_stdlib_val(group: str) -> bool:
    """Whether a package or topic of the standard library belongs to the validation split."""
    return hash_share(group) < GROUP_VAL_SHARE
