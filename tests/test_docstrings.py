"""Docstrings: all that is public has one, of one form, and the names in it are names in the code."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.test_layers import files

Documented = ast.FunctionDef | ast.ClassDef
PROPER = {"True", "False", "Adam", "Glorot", "Hydra", "Hydra's", "Lanczos", "PyTorch's"}  # may begin an item
OTHERS = {"OverrideParseException", "UnpicklingError"}  # errors of other libraries


class Section(NamedTuple):
    """The items under one title, such as ``Args``: (name, first line of its text); ("", line) for any other line."""

    title: str
    items: list[tuple[str, str]]


def sections(doc: str) -> Iterator[Section]:
    for title, body in re.findall(r"^(Args|Attributes|Raises):\n((?: .*\n|\n)*)", doc + "\n", re.M):
        lines = [line[4:] for line in body.splitlines() if re.match(r" {4}\S", line)]
        found = [re.fullmatch(r"([\w.]+(?:(?:, | or )[\w.]+)*): (.+)", line) for line in lines]
        yield Section(title, [(m[1], m[2]) if m else ("", line) for m, line in zip(found, lines, strict=True)])


def definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Dotted name and node of the functions, classes and methods of a file."""
    for child in node.body:
        if isinstance(child, Documented):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child, f"{prefix}{child.name}.")


def parameters(node: Documented) -> list[str]:
    """Names of a function's parameters, or of those of the ``__init__`` that a class has itself."""
    if isinstance(node, ast.ClassDef):
        own = [child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__"]
        return parameters(own[0]) if own else []
    given = node.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [argument.arg for argument in every if argument]


def attributes(node: ast.ClassDef, kind: type) -> set[str]:
    """Names of what a class or its instances have."""
    set_here = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    return set_here.union(dir(kind), *(vars(base).get("__annotations__", {}) for base in kind.__mro__))


def flaws(module: Any, name: str, node: Documented, errors: set[str]) -> Iterator[str]:
    """What is wrong with the docstring of one definition.

    Args:
        module: the imported module.
        name: dotted name in the module.
        node: the definition.
        errors: names that may stand under ``Raises``.
    """
    doc, kind = ast.get_docstring(node), module
    for part in name.split(".")[: None if isinstance(node, ast.ClassDef) else -1]:
        kind = getattr(kind, part)
    if not doc:
        overrides = isinstance(kind, type) and any(node.name in vars(base) for base in kind.__mro__[1:])
        if not overrides and not any(part.startswith("_") for part in name.split(".")):
            yield "has no docstring"
        return
    first, *rest = doc.split("\n")
    if not first.endswith(".") or rest[:1] not in ([], [""]):
        yield "its first line is no sentence by itself"
    for title, items in sections(doc):
        names = [item for item, _ in items]
        if title == "Args":
            if names != [p for p in parameters(node) if p in names]:
                yield f"Args {names} are not, in this order, among its parameters {parameters(node)}"
        elif title == "Attributes":
            strange = set(names) - attributes(node, kind) if isinstance(node, ast.ClassDef) else names
            if strange:
                yield f"has no attributes {strange}"
        else:
            strange = {n.rpartition(".")[2] for item in names for n in re.split(", | or ", item)} - errors
            if strange:
                yield f"Raises {strange}, which are no errors"
        for item, text in items:
            if re.match(r"[A-Z][a-z]|A ", text) and re.split("[ :]", text)[0] not in PROPER:
                yield f"{item}: {text}: begins with a capital letter"


def test_every_docstring_has_the_form_and_names_what_there_is() -> None:
    trees = {name: ast.parse(path.read_text()) for name, path in files().items() if not name.endswith("__main__")}
    errors = OTHERS.union(dir(builtins))
    errors |= {node.name for tree in trees.values() for _, node in definitions(tree) if isinstance(node, ast.ClassDef)}
    found = []
    for name, tree in trees.items():
        module = importlib.import_module(name)
        for inside, node in definitions(tree):
            found += [f"{name}.{inside}: {flaw}" for flaw in flaws(module, inside, node, errors)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "flaw"),
    [
        ("def f(x): ...", "has no docstring"),
        ('def f(x):\n    """Do this\n    and that."""', "no sentence"),
        ('def f(x):\n    """Do.\n\n    Args:\n        y: number.\n    """', "among its parameters"),
        ('def f(x):\n    """Do.\n\n    Args:\n        x number.\n    """', "among its parameters"),
        ('def f(x):\n    """Do.\n\n    Args:\n        x: Number.\n    """', "capital letter"),
        ('def f(x):\n    """Do.\n\n    Raises:\n        WrongError: always.\n    """', "no errors"),
        ('class C:\n    """A thing.\n\n    Attributes:\n        y: number.\n    """\n    x: int', "no attributes"),
        ('class C:\n    """A thing.\n\n    Args:\n        x: number.\n    """\n    x: int', "among its parameters"),
    ],
)
def test_flaws_are_found(code: str, flaw: str) -> None:
    module = type("module", (), {"C": type("C", (), {"__annotations__": {"x": int}})})
    ((name, node),) = definitions(ast.parse(code))
    assert any(flaw in said for said in flaws(module, name, node, {"UserError"}))
