"""Header fields of HTTP: an immutable multimap that is valid by construction.

Built by the HTTP machines from what the peer sent, by users from what they want to send, and
read by everything that decides over a request or a response. Names are case-insensitive and
come back in lower case; values are text of the Latin-1 range without the white space around
them. What cannot be written to the wire cannot be put into one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar, overload

from ..errors import LocalProtocolError

__all__ = ["NO_HEADERS", "Headers"]

_T = TypeVar("_T")

# RFC 9110, section 5.6.2: token = 1*tchar.
_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
# RFC 9110, section 5.5: "Field values containing CR, LF, or NUL characters are invalid and
# dangerous"; it lets other control characters pass, except where they make trouble: nowhere.
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class Headers:
    """Header fields, in order, several with the same name where there are several.

    Args:
        items: Pairs of name and value, text or bytes. Text is written as Latin-1. The
            spelling of the names is kept for the wire.

    Raises:
        LocalProtocolError: A name is no token, or a value has a control character or a
            character beyond Latin-1: the text names the field, never the value.
    """

    __slots__ = ("_by_name", "_items", "_raw", "_wire")

    def __init__(self, items: Iterable[tuple[str | bytes, str | bytes]] = ()) -> None:
        self._raw: list[tuple[bytes, bytes]] = [_checked(name, value) for name, value in items]
        self._index()

    @classmethod
    def from_parser(cls, raw: list[tuple[bytes, bytes]]) -> Headers:
        """Wrap what a parser has checked already: nothing is looked at again.

        Args:
            raw: Pairs of name and trimmed value. The list is kept, not copied.
        """
        self = cls.__new__(cls)
        self._raw = raw
        self._index()
        return self

    def _index(self) -> None:
        self._wire: bytes | None = None
        self._items = items = [
            (name.decode("ascii").lower(), value.decode("latin-1")) for name, value in self._raw
        ]
        self._by_name: dict[str, str] = dict(items)
        if len(self._by_name) != len(items):  # rare
            joined: dict[str, list[str]] = {}
            for name, value in items:
                joined.setdefault(name, []).append(value)
            self._by_name = {name: ", ".join(values) for name, values in joined.items()}

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """The pairs as bytes, names spelled as they came. A new list."""
        return list(self._raw)

    def __getitem__(self, name: str) -> str:
        """The value; several are joined with ``", "`` (RFC 9110, section 5.3).

        Raises:
            KeyError: There is none.
        """
        found = self._by_name.get(name)
        return self._by_name[name.lower()] if found is None else found

    @overload
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: _T) -> str | _T: ...

    def get(self, name: str, default: object = None) -> object:
        """The value as `__getitem__` gives it, or `default`."""
        found = self._by_name.get(name)
        return self._by_name.get(name.lower(), default) if found is None else found

    def get_all(self, name: str) -> list[str]:
        """Every value of a name, in order; empty if there is none."""
        name = name.lower()
        if name not in self._by_name:
            return []
        return [value for other, value in self._items if other == name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._by_name

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Pairs of name, in lower case, and value."""
        return iter(self._items)

    def __len__(self) -> int:
        """The number of fields."""
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        """Same fields in the same order; the spelling of names does not count."""
        return self._items == other._items if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._items))

    def __repr__(self) -> str:
        # Values may be secrets.
        return f"Headers({', '.join(name for name, _ in self._items)})"

    def with_(self, name: str | bytes, value: str | bytes) -> Headers:
        """These fields, with one value for a name in place of all that there were.

        Raises:
            LocalProtocolError: As the constructor.
        """
        pair = _checked(name, value)
        lower = pair[0].lower()
        return Headers.from_parser([*(p for p in self._raw if p[0].lower() != lower), pair])

    def without(self, *names: str) -> Headers:
        """These fields but for those of some names."""
        dropped = {name.lower().encode("latin-1", "replace") for name in names}
        return Headers.from_parser([p for p in self._raw if p[0].lower() not in dropped])

    def merged(self, other: Headers) -> Headers:
        """Those of `other`, and of these the fields whose names are not among them."""
        theirs = {name.lower() for name, _ in other._raw}
        kept = [pair for pair in self._raw if pair[0].lower() not in theirs]
        return Headers.from_parser(kept + other._raw)

    @property
    def wire(self) -> bytes:
        """The lines for the wire, each with its CR LF, without the empty one. Computed once."""
        if self._wire is None:
            self._wire = b"".join([b"%b: %b\r\n" % pair for pair in self._raw])
        return self._wire


def _checked(name: str | bytes, value: str | bytes) -> tuple[bytes, bytes]:
    try:
        raw_name = name.encode("ascii") if isinstance(name, str) else bytes(name)
    except UnicodeEncodeError:
        raw_name = b""
    if not _TOKEN.fullmatch(raw_name):
        raise LocalProtocolError(f"{name!r:.100} is no name of a header field")
    try:
        raw_value = value.encode("latin-1") if isinstance(value, str) else bytes(value)
    except UnicodeEncodeError:
        raise LocalProtocolError(
            f"the value of header field {name!r:.100} has a character beyond Latin-1"
        ) from None
    if not _VALUE.fullmatch(raw_value):
        raise LocalProtocolError(f"the value of header field {name!r:.100} has a control character")
    return raw_name, raw_value.strip(b" \t")


#: No fields at all.
NO_HEADERS: Final = Headers()
