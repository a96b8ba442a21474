"""What of a split pattern means the same to Oniguruma, which Hugging Face's `tokenizers` splits with, and to our engine.

Both read Perl's notation, and differ in silence: to Oniguruma `{1,3}+` isn't possessive but repeats a repetition, `^` and `$`
match at every line, `[[:alpha:]]` and `\\w` are other sets, and `ss` without case is ß as well. So what is known to be the same
is listed, and all else is named. `tests/data/tokenizer/test_dialect.py` compares every class on all code points, and patterns
made of what is listed on texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CATEGORIES = "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C Cc Cf Co Cn"
_SCRIPTS = "Han Hiragana Katakana Hangul Latin Greek Cyrillic Arabic Hebrew Thai Devanagari"
PROPERTIES = frozenset((*_CATEGORIES.split(), *_SCRIPTS.split()))
_CASED = ("Lu", "Ll", "Lt")  # what they are where case is ignored differs
_ONE_LETTER = ("ss", "st", "ff", "fi", "fl")  # which a single letter is too, where case is ignored

_COMMON = (
    r"(?P<property>\\[pP]\{\^?(?P<name>[A-Za-z_]+)\})"
    r"|(?P<escape>\\(?:[sSdDrntfvae]|x[0-9A-Fa-f]{2}|x\{[0-9A-Fa-f]+\}|u[0-9A-Fa-f]{4}|[^A-Za-z0-9]))"
)
_OUTSIDE = re.compile(
    _COMMON + r"|(?P<open>\((?:\?(?:[:=!>]|<[=!]|i:)|(?!\?)))|(?P<close>\))|(?P<set>\[\^?\]?)"
    r"|(?P<repeat>\{(?:\d+,?\d*|,\d+)\}[+?]?|[*+?][+?]?)|(?P<plain>[^\\()\[{^$*+?])",
    re.DOTALL,
)
_INSIDE = re.compile(
    _COMMON + r"|(?P<both>&&)|(?P<set>\[(?![:.=])\^?\]?)|(?P<end>\])|(?P<plain>(?!--|~~|&&)[^\\\[\]])", re.DOTALL
)
_ASSERTIONS = ("(?=", "(?!", "(?<=", "(?<!")
_SHOWN = 12  # characters of a pattern in a message


@dataclass
class _Group:
    """A group that is open: whether case is ignored in it, and whether it can match nothing, which a loop must not."""

    ignoring: bool
    empty: bool = False


def other_meaning(pattern: str) -> str:
    """The first part of a pattern that Oniguruma takes otherwise, or isn't known to take the same; "" where there is none."""
    at = 4 if pattern.startswith("(?i)") else 0
    groups = [_Group(at > 0)]
    sets = 0  # brackets that are open
    letters, before, before_may_be_empty = "", "", False
    while at < len(pattern):
        found = (_INSIDE if sets else _OUTSIDE).match(pattern, at)
        if found is None or (found["name"] and found["name"] not in PROPERTIES):
            return pattern[at : at + _SHOWN]
        kind, text = ("property" if found["name"] else found.lastgroup) or "", found.group()
        if kind == "repeat" and (before == "repeat" or re.fullmatch(r"\{.*\}\+|\{\d+\}\?", text)):
            return text
        if kind == "repeat" and before_may_be_empty and text[0] != "?":
            return f"){text}"
        if groups[-1].ignoring and (found["name"] in _CASED or (kind == "plain" and not _one_form(text))):
            return f"(?i:{text}"
        if kind == "plain" and not sets:
            letters = (letters + text.lower())[-2:]
            if groups[-1].ignoring and letters in _ONE_LETTER:
                return f"(?i:{letters}"
        elif kind not in ("open", "close"):
            letters = ""
        before_may_be_empty = False
        if kind == "repeat" or (text == "|" and not sets and before in ("open", "|", "")):
            groups[-1].empty |= kind != "repeat" or text[0] in "?*{"
        elif kind == "open":
            groups[-1].empty |= text in _ASSERTIONS
            groups.append(_Group(text == "(?i:" or groups[-1].ignoring))
        elif kind == "close" and len(groups) > 1:
            before_may_be_empty = groups.pop().empty or before in ("open", "|")
            groups[-1].empty |= before_may_be_empty
        sets += {"set": 1, "end": -1}.get(kind, 0)
        before = "|" if text == "|" and not sets else kind
        at = found.end()
    return ""


def _one_form(letter: str) -> bool:
    """Whether a letter has no more forms than its two cases, or its case is ASCII's."""
    return letter.isascii() or letter.lower() == letter.upper()
