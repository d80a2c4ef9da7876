"""The field's own genotype text, `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`, read without evaluating it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from ..errors import GenotypeError, closest
from .architecture import SCHEMA, Genotype
from .reader import from_json
from .structures import CELL_ROLES


def _shown(node: ast.expr) -> str:
    """The expression as an error message quotes it: short, whatever it is."""
    try:
        return repr(ast.unparse(node)[:60])
    except (ValueError, RecursionError):
        return "an expression too long to show"


def _literal(node: ast.expr, where: str) -> Any:
    """A literal, or `range(...)` of integer literals, which published genotypes use for `concat`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range" and not node.keywords:
        bounds = [_literal(argument, where) for argument in node.args]
        if 1 <= len(bounds) <= 3 and all(type(bound) is int and abs(bound) < 1000 for bound in bounds):
            try:
                return list(range(*bounds))
            except ValueError as error:
                raise GenotypeError(f"{where}: {error}") from error
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "list"
        and len(node.args) == 1
    ):
        return _literal(node.args[0], where)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise GenotypeError(
            f"{where}: only literals and range(...) of small integers are read, found {_shown(node)}"
        ) from error


def _from_call(call: ast.expr, name: str, where: str) -> Genotype:
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
        raise GenotypeError(f"{where}: expected Genotype(...), found {_shown(call)}")
    if call.args or not all(keyword.arg for keyword in call.keywords):
        raise GenotypeError(f"{where}: Genotype(...) needs keyword arguments such as normal=[...], normal_concat=[...]")
    fields = {str(keyword.arg): _literal(keyword.value, where) for keyword in call.keywords}
    fitting = [k for k, roles in CELL_ROLES.items() if set(fields) == {*roles, *(f"{role}_concat" for role in roles)}]
    if not fitting:
        raise GenotypeError(
            f"{where}: fields {', '.join(sorted(fields))} fit no known form; expected "
            + " or ".join(", ".join(f"{role}, {role}_concat" for role in roles) for roles in CELL_ROLES.values())
        )
    kind = fitting[0]
    cells = {role: {"edges": fields[role], "concat": fields[f"{role}_concat"]} for role in CELL_ROLES[kind]}
    return from_json({"schema": SCHEMA, "name": name, "kind": kind, "cells": cells}, where)


def _syntax_tree(text: str, where: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise GenotypeError(f"{where}: not Python text ({error})") from error


def parse(text: str, name: str = "unnamed") -> Genotype:
    """Read one `Genotype(...)` expression.

    Raises:
        GenotypeError: other syntax, or an invalid genotype.
    """
    body = _syntax_tree(text.strip(), "genotype text").body
    if len(body) != 1 or not isinstance(body[0], ast.Expr):
        raise GenotypeError("genotype text: expected exactly one Genotype(...) expression")
    return _from_call(body[0].value, name, "genotype text")


def parse_file(path: str | Path, variable: str) -> Genotype:
    """Read `variable = Genotype(...)` from a Python file without running it; the last assignment counts.

    An alias (`DARTS = DARTS_V2`) means what its right-hand side meant at that line, as in Python.

    Raises:
        GenotypeError: no such file, no such variable, or an invalid genotype.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise GenotypeError(f"{path}: cannot be read: {error}") from error
    found: dict[str, ast.expr] = {}
    for statement in _syntax_tree(text, str(path)).body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    value = statement.value
                    found[target.id] = found.get(value.id, value) if isinstance(value, ast.Name) else value
    chosen = found.get(variable)
    if chosen is None:
        raise GenotypeError(f"{path}: no genotype named {variable!r}.{closest(variable, list(found))}")
    return _from_call(chosen, variable, f"{path}:{variable}")
