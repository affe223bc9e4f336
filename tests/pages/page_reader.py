"""Reads a page as a browser would, with the standard library's parser."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@dataclass
class Node:
    tag: str
    attributes: dict
    parent: "Node | None" = None
    children: list = field(default_factory=list)  # nodes and pieces of text, in order

    @property
    def text(self):
        """All text inside, spaces as a browser collapses them."""
        return " ".join("".join(self.pieces()).split())

    def pieces(self):
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from child.pieces()
                # A browser sets blocks and cells apart.
                yield " " if child.tag not in {"span", "a"} else ""

    def all(self, *tags):
        for child in self.children:
            if isinstance(child, Node):
                if not tags or child.tag in tags:
                    yield child
                yield from child.all(*tags)

    def above(self):
        node = self.parent
        while node:
            yield node
            node = node.parent

    @property
    def classes(self):
        return self.attributes.get("class", "").split()


class Reader(HTMLParser):
    """Refuses what is not nested properly."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = self.here = Node("document", {})

    def handle_starttag(self, tag, attrs):
        node = Node(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(node)
        if tag not in VOID:
            self.here = node

    def handle_startendtag(self, tag, attrs):
        self.here.children.append(Node(tag, dict(attrs), self.here))

    def handle_endtag(self, tag):
        assert tag == self.here.tag, f"</{tag}> closes <{self.here.tag}>"
        self.here = self.here.parent

    def handle_data(self, data):
        self.here.children.append(data)


def read(page):
    """The document as a tree."""
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.here is reader.root, f"<{reader.here.tag}> is never closed"
    return reader.root


def section(document, heading):
    """The section under a heading."""
    (found,) = (each for each in document.all("section") if next(each.all("h2")).text == heading)
    return found


def rows(table):
    """Texts of the cells of each row of a table's body."""
    (body,) = table.all("tbody")
    return [[cell.text for cell in row.all("th", "td")] for row in body.all("tr")]


def number(text):
    """A number as shown."""
    return float(text.removesuffix("%").strip().replace("−", "-").replace(",", ""))
