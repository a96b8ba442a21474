"""Docstrings into prose: the first sentence, without markup, signatures or half-finished lists."""

from __future__ import annotations

import re

MIN_SUMMARY, MAX_SUMMARY = 12, 160

# "find(sub) -> int", "D.update(E) -> None.  Update D", "get(key) -- look it up": `rest` is what follows the signature.
_SIGNATURE = re.compile(
    r"^(?:class\s+|\(.{1,40}\) = )?[\w.<>]+ ?\(.*?\)(?:\s*--\s*(?P<dash>\S.*)?|\s*->.*?(?:--\s*|\.\s+)(?P<arrow>[A-Za-z].*)"
    r"|\s*(?:->|=>|=|:).*)?$"
)
_ROLE = re.compile(r":(?:py:)?(?:c:)?[a-z]+:`~?([^`<>]*?)(?:\s*<[^`]*>)?`")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|approx|incl|Dr|Mr|St|No|Inc|Fig|Sec|ch|a\.k\.a|w\.r\.t|viz)|\b[A-Z])$"
)
_END = re.compile(r"[.!?](?=[\"')\]]*(?:\s|$))")


def first_sentence(doc: str) -> str:
    """The first sentence of a cleaned docstring as one plain line that ends with a full stop, or "" if there is none fit.

    Skipped: signature lines above the text. Unfit: under 16 or over 160 characters, an introduction to a list (ends with a
    colon), code, markup that can't be removed, text outside printable ASCII, unbalanced brackets.

    >>> first_sentence("dedent(text) -> str\\n\\nRemove the margin, e.g. blanks, of\\n``text``. More follows.")
    'Remove the margin, e.g. blanks, of text.'
    """
    paragraph = _first_paragraph(doc)
    text = _plain(paragraph)
    sentence = _cut(text)
    sentence = sentence[:1].upper() + sentence[1:]
    return sentence if _is_fit(sentence) else ""


def _first_paragraph(doc: str) -> str:
    for block in re.split(r"\n\s*\n", doc):
        lines = block.splitlines()
        while lines:
            line = lines[0].strip()
            signature = _SIGNATURE.match(line)
            if signature is None and not re.fullmatch(r"[-=~^*#]{3,}", line):
                break
            lines.pop(0)
            rest = signature and (signature["dash"] or signature["arrow"])
            if rest:
                lines.insert(0, rest)
                break
        text = "\n".join(lines).strip()
        if text:
            return text
    return ""


def _plain(text: str) -> str:
    text = _ROLE.sub(r"\1", text)
    text = re.sub(r"`([^`'\s]+)'", r"'\1'", text)
    text = re.sub(r"\*\*?([\w.]+(?: [\w.]+)*)\*\*?", r"\1", text)
    text = text.replace("``", "").replace("`", "")
    return re.sub(r"\s+", " ", text).strip()


def _cut(text: str) -> str:
    """`text` up to the first full stop that ends a sentence; a text without one is taken whole."""
    for end in _END.finditer(text):
        head = text[: end.start()]
        if _ABBREVIATION.search(head) or not _balanced(head):
            continue
        return text[: end.end()]
    if text and text[-1] not in ".!?:,;":
        return text + "."
    return text


def _balanced(text: str) -> bool:
    return all(text.count(a) == text.count(b) for a, b in ("()", "[]", "{}")) and text.count('"') % 2 == 0


_UNFIT = re.compile(r"->|>>>|==|::|: |\bTODO\b|\bXXX\b|\bFIXME\b|https?:|[\\|<>{}=@$]|--|\.\. |\*|' '")


def _is_fit(sentence: str) -> bool:
    return (
        MIN_SUMMARY <= len(sentence) <= MAX_SUMMARY
        and sentence[0].isupper()
        and "(" not in sentence.split(" ", 1)[0]
        and sentence[-1] == "."
        and not sentence.endswith("..")
        and sentence.isascii()
        and sentence.count(" ") >= 2
        and _balanced(sentence)
        and not _UNFIT.search(sentence)
    )
