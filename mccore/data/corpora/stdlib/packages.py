"""The standard library with its tests as long documents, one per package: for training and measuring long contexts.

A document is a package's sources, then its test suites, then the pages about it. What is written in one of them is told, used
and tested again in others, thousands of tokens away.
"""

from __future__ import annotations

from collections.abc import Collection

from mccore.data.corpora.document import Document, Split, hash_share, text_digest
from mccore.data.corpora.stdlib.pages import StdlibCorpus, stdlib_documents
from mccore.data.corpora.stdlib.sources import TEST_FOLDERS, family_of, group_of

# Validation packages. Not the share of the other forms: settings of long contexts were chosen on the packages below 0.15
# (docs/LOG.md), and what is measured on others is honest.
_VAL_FROM, _VAL_BELOW = 0.15, 0.30
_PART_ORDER = ("source", "test", "topic", "reference", "overview")

# Modules and test suites under other names than what they belong with; a suite `<package>_<more>` needs no entry. Found by
# looking for runs of lines that two groups share.
_RELATED = {
    "ast": "asdl_parser type_comments unparse",
    "builtins": """bool bytes builtin complex descr descrtut dict dictviews dynamicclassattribute enumerate float format fstring
        int iter iterlen list long mapping_tests memoryview module property range seq_tests set slice tuple unicode
        utf8source""",
    "calendar": "datetimetester strftime",
    "codecs": "charmapcodec codeccallbacks codecencodings codecmaps multibytecodec source_encoding testcodec ucn unicodedata",
    "collections": "defaultdict deque ordered_dict userdict userlist userstring",
    "dis": "opcache opcodes peepholer",
    "doctest": "doctest2 sample_doctest",
    "exceptions": "baseexception except exception",
    "generators": "asyncgen generator genexps",
    "gzip": "zipfile64",
    "hashlib": "time_hashlib",
    "html": "htmlparser markupbase",
    "idlelib": "idle",
    "importlib": "frozen import pkg",
    "inspect": "pydocfodder",
    "io": "bufio file fileio largefile memoryio univnewlines",
    "os": "popen",
    "pickle": "picklebuffer pickletester",
    "pstats": "cprofile profilee",
    "select": "devpoll epoll kqueue poll selectors",
    "smtplib": "ftplib imaplib mock_socket nntplib poplib smtpnet telnetlib",
    "socket": "timeout",
    "struct": "structseq",
    "subprocess": "subprocessdata",
    "support": "autotest leakers libregrtest memory_watchdog pythoninfo regrtest script_helper",
    "threading": "lock_tests mp thread threadsignals threadedtempfile xxinterpchannels xxsubinterpreters",
    "tkinter": "tcl tix tk ttk",
    "tokenize": "grammar",
    "trace": "tracedmodules",
    "tty": "openpty pty termios",
    "typing": "genericalias type_annotations typechecks typinganndata",
    "urllib": "docxmlrpc httplib httpservers robotparser urllib2 urllib2net urllibnet urlparse",
    "wave": "aifc audioop audiotests chunk imghdr sndhdr sunau",
    "weakref": "weakset",
    "xml": "minidom pulldom pyexpat sax xmltests",
}
_PACKAGE_OF = {member: package for package, members in _RELATED.items() for member in members.split()}


class PackagesCorpus(StdlibCorpus):
    """One document per top-level package of this interpreter's standard library, tests included, in a fixed shuffled order.

    Ids are `package/<name>`. The split is by package and isn't that of `stdlib` or of the conversations made from it: a model
    trained on these documents has read most of what those hold out, and the other way round.
    """

    def __init__(self) -> None:
        super().__init__(with_tests=True)
        self.name = "stdlib:packages"

    def _divide(self) -> dict[Split, list[Document]]:
        found = stdlib_documents(with_tests=True)
        groups = {group for group, _ in found}
        packages: dict[str, list[Document]] = {}
        seen: set[bytes] = set()
        for group, document in found:
            topic = group.startswith("topic:")
            package = "topics" if topic else package_of(group, groups)
            # Settings were chosen on this part of a validation package, so it is measured on no more.
            if not topic and _in_val(package) and hash_share(group) < _VAL_FROM:
                continue
            digest = text_digest(document.text)
            if digest not in seen:
                seen.add(digest)
                packages.setdefault(package, []).append(document)
        splits: dict[Split, list[Document]] = {"train": [], "val": []}
        for package, documents in packages.items():
            splits["val" if _in_val(package) else "train"].append(_joined(package, documents))
        return splits


def package_of(group: str, groups: Collection[str]) -> str:
    """The package that a group of `stdlib.group_of` is joined to: itself, or what it is a suite of by its name or the table.

    >>> package_of("xml_etree_c", {"xml"}), package_of("test_multiprocessing", {"threading"}), package_of("sax", {"xml"})
    ('xml', 'threading', 'xml')
    """
    name = family_of(group.removeprefix("test_"))
    if name in _PACKAGE_OF:
        return _PACKAGE_OF[name]
    start = name
    while "_" in start:
        start = start.rpartition("_")[0]
        if start in _PACKAGE_OF or family_of(start) in groups:
            return package_of(family_of(start), groups)
    return name if name in groups else group


def _in_val(package: str) -> bool:
    # The language topics are the data of pydoc.
    return _VAL_FROM <= hash_share(group_of("pydoc") if package == "topics" else package) < _VAL_BELOW


def _joined(package: str, documents: list[Document]) -> Document:
    """All texts of a package, each under a comment line with its id."""
    ordered = sorted(documents, key=lambda document: (_PART_ORDER.index(_part_of(document)), document.id))
    texts = [f"# {document.id}\n\n{document.text.strip(chr(10))}\n" for document in ordered]
    return Document(f"package/{package}", "\n\n".join(texts))


def _part_of(document: Document) -> str:
    part, *folders = document.id.split("/")
    return "test" if part == "source" and not TEST_FOLDERS.isdisjoint(folders) else part
