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

__all__ = ["NO_HEADERS", "HeaderField", "Headers", "make_field"]

_T = TypeVar("_T")

# RFC 9110, section 5.6.2: token = 1*tchar.
_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
# RFC 9110, section 5.5: "Field values containing CR, LF, or NUL characters are invalid and
# dangerous"; it lets other control characters pass, except where they make trouble: nowhere.
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


#: A field: name and value as on the wire, name in lower case and value as text.
HeaderField = tuple[bytes, bytes, str, str]


def make_field(name: bytes, value: bytes) -> HeaderField:
    """A field out of a name and a trimmed value that were checked."""
    return name, value, name.decode("ascii").lower(), value.decode("latin-1")


class Headers:
    """Header fields, in order, several with the same name where there are several.

    Args:
        items: Pairs of name and value, text or bytes. Text is written as Latin-1. The
            spelling of the names is kept for the wire.

    Raises:
        LocalProtocolError: A name is no token, or a value has a control character or a
            character beyond Latin-1: the text names the field, never the value.
    """

    __slots__ = ("_by_name", "_fields", "_wire")

    def __init__(self, items: Iterable[tuple[str | bytes, str | bytes]] = ()) -> None:
        self._set([make_field(*_checked(name, value)) for name, value in items])

    @classmethod
    def from_parser(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Wrap what a parser has checked already: nothing is looked at again.

        Args:
            raw: Pairs of name and trimmed value.
        """
        return cls.from_fields([make_field(name, value) for name, value in raw])

    @classmethod
    def from_fields(cls, fields: list[HeaderField]) -> Headers:
        """Wrap what `make_field` made of what was checked; the list is kept, not copied."""
        self = cls.__new__(cls)
        self._set(fields)
        return self

    def _set(self, fields: list[HeaderField]) -> None:
        self._fields = fields
        self._wire: bytes | None = None
        self._by_name: dict[str, str] = {name: value for _, _, name, value in fields}
        if len(self._by_name) != len(fields):  # rare
            joined: dict[str, list[str]] = {}
            for _, _, name, value in fields:
                joined.setdefault(name, []).append(value)
            self._by_name = {name: ", ".join(values) for name, values in joined.items()}

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """The pairs as bytes, names spelled as they came. A new list."""
        return [(name, value) for name, value, _, _ in self._fields]

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
        return [value for _, _, other, value in self._fields if other == name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._by_name or name.lower() in self._by_name)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Pairs of name, in lower case, and value."""
        return iter([(name, value) for _, _, name, value in self._fields])

    def __len__(self) -> int:
        """The number of fields."""
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        """Same fields in the same order; the spelling of names does not count."""
        return list(self) == list(other) if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        # Values may be secrets.
        return f"Headers({', '.join(name for name, _ in self)})"

    def with_(self, name: str | bytes, value: str | bytes) -> Headers:
        """These fields, with one value for a name in place of all that there were.

        Raises:
            LocalProtocolError: As the constructor.
        """
        new = make_field(*_checked(name, value))
        return Headers.from_fields([*(f for f in self._fields if f[2] != new[2]), new])

    def without(self, *names: str) -> Headers:
        """These fields but for those of some names."""
        dropped = {name.lower() for name in names}
        return Headers.from_fields([f for f in self._fields if f[2] not in dropped])

    def merged(self, other: Headers) -> Headers:
        """Those of `other`, and of these the fields whose names are not among them."""
        theirs = other._by_name
        return Headers.from_fields([f for f in self._fields if f[2] not in theirs] + other._fields)

    @property
    def wire(self) -> bytes:
        """The lines for the wire, each with its CR LF, without the empty one. Computed once."""
        if self._wire is None:
            self._wire = b"".join([b"%b: %b\r\n" % field[:2] for field in self._fields])
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
