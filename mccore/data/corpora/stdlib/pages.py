"""The standard library as documents: sources, language topics, and two kinds of page rendered from its docstrings.

A *reference* page lists a module's objects with signature and docstring; an *overview* page says the same facts as sentences,
first from name to purpose, then from purpose to name. The questions of `stdlib_qa` are asked about exactly these sentences.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

from mccore.data.corpora.document import Corpus, Document, Split, check_split, hash_share, text_digest
from mccore.data.corpora.stdlib.api import ApiModule, ApiObject, api_modules
from mccore.data.corpora.stdlib.prose import first_sentence
from mccore.data.corpora.stdlib.sources import group_of, in_stdlib_val, source_files, topics


class StdlibCorpus(Corpus):
    """Sources, language topics and docstring pages of this interpreter's standard library, in one fixed shuffled order.

    Split by top-level package, so a package's files and pages are all on one side. The order is by a hash of the id: any
    prefix of the stream is a fair sample of the whole.
    """

    def __init__(self, *, with_tests: bool = False) -> None:
        self.name = "stdlib:with-tests" if with_tests else "stdlib"
        self._with_tests = with_tests

    @cached_property
    def _splits(self) -> dict[Split, list[Document]]:
        splits = self._divide()
        for documents in splits.values():
            documents.sort(key=lambda document: hash_share(f"order:{document.id}"))
        return splits

    def _divide(self) -> dict[Split, list[Document]]:
        """The documents of each split, in any order that is always the same."""
        splits: dict[Split, list[Document]] = {"train": [], "val": []}
        seen: set[bytes] = set()
        for group, document in stdlib_documents(self._with_tests):
            digest = text_digest(document.text)
            if digest not in seen:
                seen.add(digest)
                splits["val" if in_stdlib_val(group) else "train"].append(document)
        return splits

    def documents(self, split: Split) -> Iterator[Document]:
        check_split(split)
        return iter(self._splits[split])

    def manifest(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        parts: dict[str, Counter[str]] = {}
        splits: dict[str, dict[str, int]] = {}
        for split, documents in self._splits.items():
            sizes = [len(document.text.encode()) for document in documents]
            splits[split] = {"documents": len(documents), "bytes": sum(sizes)}
            for document, size in zip(documents, sizes, strict=True):
                digest.update(f"{split}\0{document.id}\0{size}\0{document.text}".encode())
                part = parts.setdefault(document.id.split("/", 1)[0], Counter())
                part.update(documents=1, bytes=size)
        return {
            "name": self.name,
            "python": platform.python_version(),
            "documents": sum(split["documents"] for split in splits.values()),
            "bytes": sum(split["bytes"] for split in splits.values()),
            "sha256": digest.hexdigest(),
            "splits": splits,
            "parts": {name: dict(part) for name, part in sorted(parts.items())},
        }

    def describe(self) -> str:
        manifest = self.manifest()
        return (
            f"{self.name}: the standard library of Python {manifest['python']}, {manifest['documents']} documents, "
            f"{manifest['bytes'] / 1e6:.1f} MB"
        )


@lru_cache(maxsize=2)
def stdlib_documents(with_tests: bool = False) -> tuple[tuple[str, Document], ...]:
    """Every document with the group it is split by, in the order of the parts and of their paths.

    The id is `<part>/<path or name>`; documents of one package, whatever their part, share a group.
    """
    return tuple(_documents(with_tests))


def _documents(with_tests: bool) -> Iterator[tuple[str, Document]]:
    for file in source_files(with_tests):
        yield group_of(file.module), Document(f"source/{file.path}", file.text)
    for name, text in topics().items():
        yield f"topic:{name}", Document(f"topic/{name}", text.strip() + "\n")
    for module in api_modules():
        group = group_of(module.name)
        yield group, Document(f"reference/{module.name}", reference_page(module))
        if any(found.summary for found in module.objects):
            yield group, Document(f"overview/{module.name}", overview_page(module))


def reference_page(module: ApiModule) -> str:
    """Module docstring, then `name(signature)` and the indented docstring of each object, in source order."""
    blocks = [f"{module.name} - API reference"]
    if module.doc:
        blocks.append(module.doc)
    for found in module.objects:
        keyword = "class " if found.kind == "class" else ""
        body = "\n".join(f"    {line}" if line else "" for line in found.doc.splitlines())
        blocks.append(f"{keyword}{found.name}{found.signature}\n{body}")
    return "\n\n".join(blocks) + "\n"


def overview_page(module: ApiModule) -> str:
    """One sentence per object with what it is and what it does, then the same the other way round."""
    told = [found for found in module.objects if found.summary]
    heading = f"The module {module.name}. {first_sentence(module.doc)}".rstrip()
    facts = [f"{found.name} is {belonging(found)}. {found.summary}" for found in told]
    purposes = [f"{found.summary} This is {found.name}." for found in told]
    return "\n".join([heading, "", *facts, "", f"What {module.name} offers:", *purposes]) + "\n"


def belonging(found: ApiObject) -> str:
    """Where an object lives, in words.

    >>> belonging(ApiObject("textwrap", "TextWrapper.wrap", "method", "(text)", "", ""))
    'a method of the class TextWrapper in the module textwrap'
    """
    if found.kind == "method":
        owner = found.qualname.rsplit(".", 1)[0]
        where = f"the class {owner}"
        return f"a method of {where}" + ("" if found.module == "builtins" else f" in the module {found.module}")
    if found.module == "builtins":
        return f"a built-in {found.kind}"
    return f"a {found.kind} in the module {found.module}"
