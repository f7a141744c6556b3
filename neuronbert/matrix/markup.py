"""Elements of HTML, SVG and XML: built as a tree, so that no text can become markup.

Owns: how an element is made and written out. Knows nothing of what is said with them.
"""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree as Xml

_FORBIDDEN: Final = re.compile(
    "[^\\t\\n\\r\\x20-\\x7e\\xa0-\\ud7ff\\ue000-\\ufdcf\\ufdf0-\\ufffd\\U00010000-\\U0010ffff]"
)
_NAMES: Final = {"class_": "class", "for_": "for"}


def clean(text: object) -> str:
    """A text without the characters that neither XML nor HTML can hold."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text))


def element(tag: str, text: object = "", **attributes: object) -> Xml.Element:
    """An element on its own.

    Args:
        tag: Its name.
        text: What it begins with.
        attributes: By name; an underscore stands for a hyphen, `class_` for class.
    """
    names = {_NAMES.get(name, name.replace("_", "-")): clean(value) for name, value in attributes.items()}
    node = Xml.Element(tag, names)
    if text != "":
        node.text = clean(text)
    return node


def add(parent: Xml.Element, tag: str, text: object = "", **attributes: object) -> Xml.Element:
    """An element at the end of another."""
    node = element(tag, text, **attributes)
    parent.append(node)
    return node


def table(parent: Xml.Element, columns: list[str], rows: list[list[object]]) -> Xml.Element:
    """A table with a head; the cells of the first column are the heads of their rows."""
    body = add(add(parent, "div", class_="wide"), "table")
    head = add(add(body, "thead"), "tr")
    for column in columns:
        add(head, "th", column, scope="col")
    content = add(body, "tbody")
    for row in rows:
        line = add(content, "tr")
        add(line, "th", row[0], scope="row")
        for cell in row[1:]:
            add(line, "td", cell)
    return body


def to_html(root: Xml.Element) -> str:
    """A whole page."""
    return "<!doctype html>\n" + Xml.tostring(root, encoding="unicode", method="html") + "\n"


def to_xml(root: Xml.Element) -> str:
    """A whole document."""
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
