"""Reads the specification's pages: which sentences of them bind somebody.

Used by the manifest's test where the pages are at hand, and by hand for a new revision:
``python tests/specification/pages.py PAGE.mdx`` prints what is to be put into a data file.
It never judges what a sentence means.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: RFC 2119 and RFC 8174: only in capitals do these words bind.
BINDING = re.compile(r"\b(?:MUST|SHALL|SHOULD|REQUIRED|RECOMMENDED)\b")
_ITEM = re.compile(r"^(\s*)(?:[-*]|\d+\.)\s+(.*)$")
_BREAK = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`*\[(\"_])")
_NO_END = re.compile(r"(?:e\.g\.|i\.e\.|etc\.|vs\.|:)$")


@dataclass
class Block:
    """One paragraph, list item or table row: its text without the marks of a list."""

    headings: list[str]
    kind: str
    indent: int
    text: str


@dataclass
class BindingSentence:
    """A sentence with one of the words in capitals, and the list that it introduces."""

    heading: str
    text: str
    items: list[str] = field(default_factory=list)


def normalized(text: str) -> str:
    """The words of a page or a sentence, whatever its lines, quotations and lists look like."""
    lines = []
    for line in text.splitlines():
        plain = re.sub(r"^\s*>\s?", "", line)
        item = _ITEM.match(plain)
        lines.append(item[2] if item else plain)
    return " ".join(" ".join(lines).split())


def blocks_of(page: str) -> list[Block]:
    """Take a page apart. Code, front matter and tags are left out."""
    found: list[Block] = []
    current: Block | None = None
    headings: list[tuple[int, str]] = []
    code = front = False
    for number, line in enumerate(page.splitlines()):
        if line == "---" and (number == 0 or front):
            front = not front
            continue
        plain = re.sub(r"^\s*>\s?", "", line)
        if plain.lstrip().startswith("```"):
            code = not code
            current = None
            continue
        if front or code:
            continue
        heading = re.match(r"^(#+)\s+(.*)", plain)
        tag = re.fullmatch(r"\s*</?[A-Za-z][^>]*>\s*", plain)
        item = _ITEM.match(plain)
        if heading:
            depth = len(heading[1])
            headings = [each for each in headings if each[0] < depth] + [(depth, heading[2])]
            current = None
        elif not plain.strip() or tag:
            current = None
        elif item or plain.lstrip().startswith("|"):
            indent = len(item[1]) if item else 0
            kind = "item" if item else "row"
            text = item[2] if item else plain.strip()
            current = Block([title for _, title in headings], kind, indent, text)
            found.append(current)
        elif current is None or current.kind == "row":
            indent = len(plain) - len(plain.lstrip())
            current = Block([title for _, title in headings], "text", indent, plain.strip())
            found.append(current)
        else:
            current.text += " " + plain.strip()
    return found


def sentences_of(text: str) -> list[str]:
    """Split a paragraph. A colon ends no sentence, and neither does an abbreviation."""
    found: list[str] = []
    for part in _BREAK.split(" ".join(text.split())):
        if found and _NO_END.search(found[-1]):
            found[-1] += " " + part
        else:
            found.append(part)
    return found


def binding_sentences(page: str) -> Iterator[BindingSentence]:
    """Find what binds, in the order of the page."""
    blocks = blocks_of(page)
    for number, block in enumerate(blocks):
        sentences = sentences_of(block.text)
        for sentence in sentences:
            if BINDING.search(sentence):
                last = sentence is sentences[-1] and sentence.endswith(":")
                items = _items_below(blocks, number) if last else []
                yield BindingSentence(block.headings[-1] if block.headings else "", sentence, items)


def _items_below(blocks: list[Block], number: int) -> list[str]:
    above = blocks[number]
    found = []
    for block in blocks[number + 1 :]:
        deeper = above.kind != "item" or block.indent > above.indent
        if block.kind != "item" or block.headings != above.headings or not deeper:
            break
        found.append(block.text)
    return found


if __name__ == "__main__":
    for _path in sys.argv[1:]:
        for _sentence in binding_sentences(Path(_path).read_text()):
            sys.stdout.write(f"{_sentence.heading}: {_sentence.text}\n")
            for _item in _sentence.items:
                sys.stdout.write(f"    {_item}\n")
