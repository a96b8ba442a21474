"""The docs: short lines, short sentences, the words of the glossary, links that lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.sources import ROOT

COLUMNS = 100
WORDS = 35  # of a sentence
# Phrases of a private dialect, and what to write in their place.
WORD_LIST = {
    "so many": "the number",
    "as many as like": "any number",
    "another one": "the noun",
    "what isn't": "the noun",
    "hears of": "is called with",
    "what it does otherwise": "overrides",
}
GENERATED = {"docs/events.md", "docs/settings.md"}

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if "adr" not in path.parts
)
RULED = [page for page in PAGES if page not in GENERATED]


def prose(page: str) -> list[tuple[int, str]]:
    """Numbered lines of a page outside of its code blocks."""
    lines, inside = [], False
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            lines.append((number, line))
    return lines


def sentences(page: str) -> list[str]:
    """The sentences of a page's paragraphs and list items; tables and headings have none."""
    blocks: list[str] = [""]
    for _, line in prose(page):
        if not line.strip() or line.startswith(("|", "#")):
            blocks.append("")
        elif re.match(r"\s*([-*]|\d+\.) ", line):
            blocks.append(line.strip())
        else:
            blocks[-1] += f" {line.strip()}"
    return [part for block in blocks for part in re.split(r"(?<=[.!?:])\s+", block) if part.strip()]


@pytest.mark.parametrize("page", RULED)
def test_lines_are_short(page: str) -> None:
    long = [number for number, line in prose(page) if len(line) > COLUMNS and not line.startswith("|")]
    assert long == []


@pytest.mark.parametrize("page", RULED)
def test_sentences_are_short(page: str) -> None:
    # A link counts by its words, not by its address.
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", sentence) for sentence in sentences(page)]
    assert [sentence for sentence in plain if len(sentence.split()) > WORDS] == []


@pytest.mark.parametrize("page", RULED)
def test_words_are_plain(page: str) -> None:
    text = " ".join(line for _, line in prose(page)).lower()
    assert {phrase: better for phrase, better in WORD_LIST.items() if phrase in text} == {}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = "\n".join(line for _, line in prose(page))
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (ROOT / page).parent.joinpath(target).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """A path of the project in backticks is one that is there; the log may name what has moved."""
    if page == "docs/LOG.md":
        return
    text = (ROOT / page).read_text(encoding="utf-8")
    text = text.replace("ROOM/FILE.py", "").replace("ROOM/test_FILE.py", "")
    named = re.findall(r"`((?:mccore|tests|benchmarks|plugins|docs)/[\w/.-]+\.(?:py|md|json|yaml))`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def glossary() -> list[str]:
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    return rows[1:]


def test_a_term_is_defined_once_and_in_order() -> None:
    terms = glossary()
    assert len(terms) == len(set(terms)) > 30
    assert terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize("term", glossary())
def test_a_term_is_used_in_the_code_or_the_docs(term: str) -> None:
    """By its first name, before a comma."""
    word = term.partition(",")[0]
    places = [*(ROOT / "mccore").rglob("*.py"), *(ROOT / "plugins").rglob("*.py"), *(ROOT / page for page in RULED)]
    used = [path for path in places if path.name != "glossary.md" and _says(path, word)]
    assert used, f"nobody says {word!r}"


def _says(path: Path, word: str) -> bool:
    # Terms are also written as names: `swap_rate` for "swap rate".
    pattern = re.escape(word).replace(r"\ ", r"[\s_-]+")
    return re.search(pattern, path.read_text(encoding="utf-8"), re.IGNORECASE) is not None
