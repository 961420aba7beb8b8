"""The house: which folder may import from which, and how long a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import metarun

PACKAGE = Path(metarun.__file__).parent
# A file imports from its own folder, or from one further left than the nearest bar.
ORDER = """
errors | compat | files out_of_memory progress | core | algorithms models datasets results | engine trackers | runs
| config verify | learner reproduce | cli
"""
LEVEL = {name: level for level, names in enumerate(ORDER.split("|")) for name in names.split()}
LEVEL |= {"": -1, "__main__": len(LEVEL)}  # "": metarun itself


def part(module: str) -> str:
    """``metarun.datasets.omniglot`` -> ``datasets``."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """Modules of metarun that a file imports, wherever in the file it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{alias.name}" if node.module == "metarun" else node.module for alias in node.names
            }
    return {name for name in found if name.split(".")[0] == "metarun"}


def files() -> dict[str, Path]:
    names = {
        ".".join(("metarun", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in PACKAGE.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


def test_every_folder_has_its_place() -> None:
    assert {part(name) for name in files()} == set(LEVEL)


def test_imports_go_left() -> None:
    for name, path in files().items():
        for used in imports(path):
            if used.startswith("metarun.__"):  # metarun.__version__
                continue
            own = part(used) == part(name)
            level = len(LEVEL) if name == "metarun" else LEVEL[part(name)]  # metarun itself offers what it has, lazily
            assert own or LEVEL[part(used)] < level, f"{name} imports {used}"


def test_only_config_and_the_command_line_know_hydra() -> None:
    for name, path in files().items():
        text = path.read_text()
        knows = any(word in text for word in ("import hydra", "from hydra", "omegaconf", "compat.hydra"))
        assert not knows or part(name) in ("config", "cli", "compat"), name


STANDARD = {"_exit", "_replace", "_asdict"}  # names of Python's own library that begin with an underscore


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.Module) -> set[str]:
    """Names beginning with an underscore that a file imports, or takes from what is not its own (``x._name``)."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if any(map(private, alias.name.split(".")))}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name for name in names if any(map(private, name.split(".")))}
        elif isinstance(node, ast.Attribute) and private(node.attr):
            found.add(node.attr)
    return found


def own_names(tree: ast.Module) -> set[str]:
    """What a file defines: functions, classes, variables and attributes."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def hydra_below(tree: ast.Module) -> set[str]:
    """Modules of Hydra that a file imports besides what ``import hydra`` brings, its errors and types."""
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in names if name.startswith("hydra.")} - {"hydra.errors", "hydra.types"}


def test_private_names_of_other_libraries_are_in_compat_alone() -> None:
    trees = {name: ast.parse(path.read_text()) for name, path in files().items()}
    own = STANDARD.union(*map(own_names, trees.values()))
    for name, tree in trees.items():
        if part(name) != "compat":
            assert not private_names(tree) - own and not hydra_below(tree), name
    borrowed = [private_names(tree) - own for name, tree in trees.items() if part(name) == "compat"]
    assert {"torch.utils._pytree.tree_map", "_schema", "_get_node"} <= set[str]().union(*borrowed)  # they are seen


def test_files_are_a_screen_or_three() -> None:
    for name, path in files().items():
        assert len(path.read_text().splitlines()) <= 300, name
