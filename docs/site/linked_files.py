"""A hook of mkdocs: files of the repository that pages link to become part of the site, under ``repository/``.

Pages of docs/ are read on the site and in the repository, and link to code, recipes and result tables outside of docs/.
Markdown files become pages, pictures are copied, other files are shown as code. Links to folders lose their target.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
SHOWN = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".cpp": "cpp", ".h": "cpp", ".csv": "text"}
PICTURES = (".png", ".svg", ".jpg")
BEYOND = "repository/"  # where files from outside of docs/ are on the site


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page links to, and what those link to."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir).name
    named = [file.src_uri for file in files.documentation_pages()]
    ahead = [f"{docs}/{name}" for name in named] + [n for n in _named(config.nav) if n.startswith(BEYOND)]
    done: set[str] = set()
    while ahead:
        here = ahead.pop().removeprefix(BEYOND)
        if here in done or not (root / here).is_file():
            continue
        done.add(here)
        if not here.startswith(f"{docs}/"):
            files.append(_shown(config, root, here))
        if here.endswith(".md"):
            targets = [link.group(3).split("#")[0] for link in LINK.finditer((root / here).read_text())]
            ahead += [
                posixpath.normpath(posixpath.join(posixpath.dirname(here), to))
                for to in targets
                if to and "://" not in to
            ]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between the repository's files lead to the same files on the site."""
    docs = Path(config.docs_dir).name
    outside = page.file.src_uri.startswith(BEYOND)
    here = page.file.src_uri.removeprefix(BEYOND) if outside else f"{docs}/{page.file.src_uri}"

    def moved(link: re.Match[str]) -> str:
        mark, text, (target, _, anchor) = link.group(1), link.group(2), link.group(3).partition("#")
        if not target or "://" in target:
            return link.group(0)
        there = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        uri = there.removeprefix(f"{docs}/") if there.startswith(f"{docs}/") else _uri(there)
        if files.get_file_from_path(uri) is None:
            return text  # a folder, or a file that is only in the repository
        to = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri))
        return f"{mark}[{text}]({to}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(moved, markdown)


def _uri(path: str) -> str:
    """Return where a file from outside of docs/ is on the site."""
    shown = Path(path).suffix in SHOWN or Path(path).name in ("Makefile", "LICENSE")
    return f"{BEYOND}{path}.md" if shown else BEYOND + path


def _shown(config: MkDocsConfig, root: Path, path: str) -> File:
    """Make a file of the site from one outside of docs/."""
    suffix = Path(path).suffix
    if suffix == ".md" or suffix in PICTURES:
        return File.generated(config, _uri(path), abs_src_path=os.fspath(root / path))
    text = f"# {path}\n\n````{SHOWN.get(suffix, 'text')}\n{(root / path).read_text()}\n````\n"
    return File.generated(config, _uri(path), content=text)


def _named(nav: object) -> list[str]:
    """List the pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ()
    return [page for entry in entries for page in _named(entry)]
