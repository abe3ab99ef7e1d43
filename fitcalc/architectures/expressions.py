"""Sizes and conditions written as text over a config's keys: 'num_attention_heads * head_dim', 'layer >= first_dense'.

A few operators of Python's grammar and nothing else, read once and evaluated as often as asked.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from fitcalc.errors import ModelFileError

ValueOf = Callable[[str], Any]
"""A key (dotted for a nested config), or `layer`, -> its value."""

_LARGEST = 2**62
_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: base**exponent if exponent == 2 else _refused("a power above 2"),
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda member, group: member in group,
    ast.NotIn: lambda member, group: member not in group,
}
_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {"int": int, "len": len}


def evaluate(text: str, value_of: ValueOf) -> Any:
    """The value of an expression; ModelFileError where the config's values do not go together (8 heads of 'x')."""
    try:
        value = _value(_parsed(text), value_of)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError, IndexError) as error:
        hint = "the keys in it are of the wrong kind, or a list of them is too short"
        raise ModelFileError(f"config: {text:.80} cannot be computed ({error})", hint=hint) from error
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ModelFileError(f"config: {text:.80} is out of range", hint="a size in it is far too large")
    return value


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def _value(node: ast.expr, value_of: ValueOf) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return value_of(ast.unparse(node))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, value_of), _value(right, value_of))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_value(operand, value_of))
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_value(part, value_of) for part in values)
        case ast.BoolOp(values=values):
            return any(_value(part, value_of) for part in values)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _OPERATORS[type(op)](_value(left, value_of), _value(right, value_of))
        case ast.Subscript(value=group, slice=index):
            return _value(group, value_of)[_value(index, value_of)]
        case ast.Call(func=ast.Name(id=name), args=[argument]):
            return _FUNCTIONS[name](_value(argument, value_of))
        case _:
            return _refused(f"{ast.unparse(node)!r:.60}")


def _refused(what: str) -> Any:
    raise ValueError(f"{what} is not part of an expression")
