from __future__ import annotations

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.generate.calculator import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+1", "2"),
        (" (12 - 5) * -3 ", "-21"),
        ("7/2", "3.5"),
        ("7//2", "3"),
        ("-7 % 3", "2"),
        ("2**10", "1024"),
        ("2**-1", "0.5"),
        ("1,250 * 2", "2500"),
        ("1,000,000+1", "1000001"),
        ("'strawberry'.count('r')", "3"),
        ('"a,b".count(",")', "1"),
        ("'1,000'.count(',')", "1"),
        ("'aa'.count('a') + 1", "3"),
    ],
)
def test_arithmetic_and_counting(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "", "1 +", "x", "True", "True + 1", "1,2", "1 if 1 else 2", "1 < 2", "[1]", "'a' * 9", "'a'", "f'{1}'.count('1')",
        "__import__('os').system('true')", "'a'.count", "'a'.count('a', 1)", "'a'.index('a')", "().__class__", "(lambda: 1)()",
        "1/0", "0**-1", "(-8)**0.5", "1e308*10", "1e999", "2**9999", "9**9**9", "(10**100)**10", "9" * 600, "1+" * 200 + "1",
        "(" * 900, "-" * 900 + "1", "1" * 5000, "\x00", "1j",
    ],
)  # fmt: skip
def test_no_answer_outside_the_grammar_or_its_limits(expression: str) -> None:
    assert calculate(expression) is None


@given(st.text(max_size=60))
def test_hostile_text_never_raises(expression: str) -> None:
    result = calculate(expression)
    assert result is None or len(result) < 400


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.sampled_from("+-*"))
def test_agrees_with_python(a: int, b: int, sign: str) -> None:
    expected = {"+": a + b, "-": a - b, "*": a * b}[sign]
    assert calculate(f"({a}) {sign} ({b})") == str(expected)


def _numbers() -> st.SearchStrategy[str]:
    whole = st.integers(0, 10**7)
    fraction = st.floats(0, 1e6, allow_nan=False).map(lambda number: f"{number:.4f}")
    return st.one_of(whole.map(str), whole.map(lambda number: f"{number:,}"), fraction)


def _longer(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    sign = st.sampled_from(["+", "-", "*", "/", "//", "%", "**"])
    counted = st.tuples(st.text("ab, '\"\\", max_size=6), st.text("ab, '", max_size=2))
    return st.one_of(
        st.tuples(inner, sign, inner).map(" ".join),
        inner.map("({})".format),
        st.tuples(st.sampled_from("+-"), inner).map("".join),
        counted.map(lambda pair: f"{pair[0]!r}.count({pair[1]!r})"),
    )


EXPRESSIONS = st.recursive(_numbers(), _longer, max_leaves=8)


@given(EXPRESSIONS, st.data())
def test_what_is_answered_is_what_python_answers(expression: str, data: st.DataObject) -> None:
    """Expressions of the grammar, and the same with a few letters changed."""
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(expression)))
        odd = data.draw(st.sampled_from([*"0,.*()'\"_ej=[]", "**", ".count(", " if ", "lambda:", "\n", "\x00", "🙂"]))
        expression = expression[:place] + odd + expression[place + data.draw(st.integers(0, 2)) :]
    answer = calculate(expression)
    if answer is None:
        return
    text = expression.strip()
    if not {"'", '"'} & set(text):
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    tree = ast.parse(text, mode="eval")
    allowed = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Constant, ast.Call, ast.Attribute)
    assert all(isinstance(node, (*allowed, ast.Load)) for node in ast.walk(tree)), "outside the grammar"
    assert answer == str(eval(compile(tree, "expression", "eval"), {"__builtins__": {}}))  # its numbers were bounded
