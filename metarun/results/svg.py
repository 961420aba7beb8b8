"""A figure as a part of a page: SVG without a style of its own, and without names that clash."""

from __future__ import annotations

import io
import re
import warnings
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure

from metarun.results.axes import BETWEEN

PARTS = {"svg", "g", "defs", "clipPath", "path", "rect", "use", "text", "tspan"}
NAMESPACE = re.compile(r"\{[^}]*\}")
NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # matplotlib writes what a label has
SIZE = re.compile(r"[\d.]+px")


def inline(figure: Figure, prefix: str) -> str:
    """Return a figure as an ``svg`` element, without its title, which the page has already.

    The same figure gives the same text. Text stays text, in the page's own letters.

    Args:
        figure: the figure; its title is removed.
        prefix: begins the names inside, and belongs to no other figure of the page.
    """
    if figure.get_suptitle():
        figure.suptitle("")
    drawn = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's, of letters that its font lacks
        figure.savefig(drawn, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = NO_XML.sub("\N{REPLACEMENT CHARACTER}", drawn.getvalue().decode())
    root = ElementTree.fromstring(text)
    _clean(root, prefix, used=set(re.findall(r"#([\w.-]+)", text)))
    box = root.attrib.get("viewBox", "0 0 1 1").split()
    shown = {"class": "plot", "role": "img", "aria-label": _told(figure), "viewBox": " ".join(box)}
    root.attrib.clear()
    root.attrib.update({**shown, "width": box[2], "height": box[3]})
    return ElementTree.tostring(root, encoding="unicode")


def _told(figure: Figure) -> str:
    """Say what a figure shows: the words of its axes."""
    axes = [axes for axes in figure.axes if axes.axison]
    return "; ".join(f"{of.get_ylabel()} against {of.get_xlabel()}".removeprefix(" against ") for of in axes)


def _clean(node: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Keep the parts that draw, with style as attributes, which a page may allow where it forbids ``style``."""
    node.tag = NAMESPACE.sub("", node.tag)
    attributes = {NAMESPACE.sub("", name): value for name, value in node.attrib.items()}
    for rule in filter(None, map(str.strip, attributes.pop("style", "").split(";"))):
        name, _, value = (part.strip() for part in rule.partition(":"))
        if name == "font":  # older matplotlib has size and family in one
            name, value = "font-size", (SIZE.findall(value) or ["10px"])[0]
        if name not in ("font-family", "font-stretch"):
            attributes[name] = "currentColor" if value == "#000000" else value
    own = attributes.pop("id", None)
    if own in used:
        attributes["id"] = f"{prefix}-{own}"
    for name, value in attributes.items():
        if name in ("href", "clip-path"):
            attributes[name] = value.replace("#", f"#{prefix}-")
    node.attrib.clear()
    node.attrib.update(attributes)
    for child in list(node):
        if NAMESPACE.sub("", child.tag if isinstance(child.tag, str) else "") in PARTS:
            _clean(child, prefix, used)
        else:
            node.remove(child)
    if own and BETWEEN in own:
        _say(node, own.split(BETWEEN))


def _say(line: ElementTree.Element, words: list[str]) -> None:
    """Lay a circle that cannot be seen over each point of a line, with the words that a browser shows over it."""
    points = list(line.iter("use"))
    if len(points) != len(words):  # a line without markers, or with some outside of the picture
        return
    for point, text in zip(points, words, strict=True):
        place = {"cx": point.attrib["x"], "cy": point.attrib["y"], "r": "6"}
        circle = ElementTree.SubElement(line, "circle", place | {"fill": "none", "pointer-events": "all"})
        ElementTree.SubElement(circle, "title").text = text
