"""The house's layers: a file imports only from layers below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import metarun

PACKAGE = Path(metarun.__file__).parent
LAYERS: list[set[str]] = [
    {"errors", ""},  # "": metarun itself
    {"files", "tree", "episode", "draws", "vision", "ops", "progress", "capture", "unpickle", "telling", "room"},
    {"signals", "losses", "log", "report", "pictures", "outer", "ranks", "purity", "kernels"},
    {"inner", "memory", "plots", "page"},
    {"hypergrad"},
    {"models", "datasets", "algorithms"},
    {"vectorize", "normalize", "held_out"},
    {"device", "recipe"},
    {"experiment"},
    {"owner"},
    {"checkpoint", "evaluate", "run_folder"},
    {"train", "result", "preflight"},
    {"run"},
    {"parts"},
    {"overrides"},
    {"config"},
    {"mann_reference"},
    {"references"},
    {"check", "bench"},
    {"reproduce"},
    {"verdicts"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


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


def test_every_file_has_a_layer() -> None:
    assert {part(name) for name in files()} == set(LEVEL)


def test_imports_go_down() -> None:
    for name, path in files().items():
        for used in imports(path):
            if used.startswith("metarun.__"):  # metarun.__version__
                continue
            same_folder = part(used) == part(name) and part(name) in ("models", "datasets", "algorithms", "kernels")
            assert LEVEL[part(used)] < LEVEL[part(name)] or same_folder, f"{name} imports {used}"


def test_only_three_files_know_hydra() -> None:
    for name, path in files().items():
        text = path.read_text()
        knows = any(word in text for word in ("import hydra", "from hydra", "omegaconf"))
        assert not knows or name in ("metarun.config", "metarun.overrides", "metarun.cli"), name


def test_files_are_a_screen_or_three() -> None:
    for name, path in files().items():
        assert len(path.read_text().splitlines()) <= 300, name
