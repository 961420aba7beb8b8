"""What a page says, read as a browser reads it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br"}


class Parsed(HTMLParser):
    """The elements and the text of a page.

    Attributes:
        elements: (tag, attributes) of each element.
        inside: tag -> the text of each element of this tag, outer ones first.
    """

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside: dict[str, list[str]] = {}
        self._open: list[tuple[str, int]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        self.handle_data(" ")  # cells are words apart
        if tag not in VOID:
            self.inside.setdefault(tag, []).append("")
            self._open.append((tag, len(self.inside[tag]) - 1))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            opened, _ = self._open.pop()
            assert opened == tag, f"{opened} ends with {tag}"

    def handle_data(self, data: str) -> None:
        for tag, at in self._open:
            self.inside[tag][at] += data

    def attributes(self, name: str) -> list[str]:
        """The values of an attribute, of all elements that have it."""
        return [of[name] for _, of in self.elements if name in of]
