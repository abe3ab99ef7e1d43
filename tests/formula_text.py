"""The value of a formula's text: the evaluator that holds `--explain` against the functions."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

from fitcalc.units import ceil_div, least, most, round_up

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
}
FUNCTIONS = {"ceil_div": ceil_div, "least": least, "most": most, "round_up": round_up}


def evaluate(text: str, numbers: dict[str, Any]) -> Any:
    """The value of a formula's text; anything but numbers, names, operators and the four functions is an error."""

    def value(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body=body):
                return value(body)
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id=name):
                return numbers[name]
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](value(left), value(right))
            case ast.UnaryOp(op=op, operand=operand):
                return OPERATORS[type(op)](value(operand))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return FUNCTIONS[name](*(value(arg) for arg in args))
        raise AssertionError(f"a formula may not hold {ast.dump(node)}")

    return value(ast.parse(text, mode="eval"))
