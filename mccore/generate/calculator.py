"""The calculator behind `<|python_start|>`: arithmetic and `"text".count("t")`, read as a syntax tree, never executed.

Anything else, and anything whose result would be large, gives no answer. Numbers are bounded before they are computed, so
an expression can't cost more than microseconds and no timer is needed.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable

MAX_CHARS = 1000
MAX_NODES = 100
MAX_BITS = 512  # of an integer, at every step

Number = int | float

_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def calculate(expression: str) -> str | None:
    """The value of an expression as Python prints it, or None when it isn't one this calculator knows.

    Numbers, `+ - * / // % **`, parentheses and `"text".count("part")`; thousands separators outside of strings are
    understood (`1,250 * 2`).
    """
    expression = expression.strip()
    if len(expression) > MAX_CHARS:
        return None
    if not {'"', "'"} & set(expression):
        expression = _THOUSANDS.sub("", expression)
    try:
        with warnings.catch_warnings(action="ignore"):  # a parser's remarks on the style of the expression
            tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):  # what a parser says to hostile text
        return None
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        return None
    try:
        return str(_value(tree.body))
    except (_Refused, ArithmeticError):
        return None


class _Refused(Exception):
    """The expression is outside the grammar or its numbers are too large."""


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bounded(_power(_value(left), _value(right)))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(text)), attr="count"),
            args=[ast.Constant(value=str(part))],
            keywords=[],
        ):
            return text.count(part)
        case _:
            raise _Refused


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int):
        if abs(exponent) * max(1, base.bit_length()) > MAX_BITS:
            raise _Refused
    elif base < 0:  # a fractional power of a negative number is complex
        raise _Refused
    return base**exponent


def _bounded(number: Number) -> Number:
    if isinstance(number, int) and number.bit_length() > MAX_BITS:
        raise _Refused
    if isinstance(number, float) and not math.isfinite(number):
        raise _Refused
    return number
