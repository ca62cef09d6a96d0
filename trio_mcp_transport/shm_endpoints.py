"""The endpoint of shared memory: ``shm://NAME``, as frozen plain data.

Built by `endpoint_parser.parse_endpoint` or by hand, read by `transports.shared_memory` and
the command line. Pure: it maps nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec

from .endpoint_reading import read_endpoint
from .endpoints import Endpoint
from .errors import ConfigurationError
from .limits import (
    DEFAULT_MAX_MESSAGE_BYTES,
    DEFAULT_SHARED_CONNECTIONS,
    DEFAULT_SHARED_MESSAGE_BYTES,
    DEFAULT_SHARED_MESSAGES,
    MAX_RING_BYTES,
    SHARED_OPEN_TIMEOUT,
)

__all__ = ["DEFAULT_CHANNEL_NAME", "ShmEndpoint", "is_channel_name", "parse_shm"]

#: The channel's name where none is given.
DEFAULT_CHANNEL_NAME = "mcp-shm"

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]

# It becomes the name of a file. 64 leaves room for the directory in a socket's path.
_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}")
#: Names that older configurations use for fields.
_ALIASES = {"maxSize": "max_size", "maxCount": "max_count"}


class ShmEndpoint(Endpoint, frozen=True):
    """Memory shared by processes of one user on one machine: ``shm://NAME``.

    Whoever listens is the *creator*: it decides the sizes, which those who connect read from
    it. The largest message is `max_size`, or `max_message_bytes` where that was set and is
    smaller, or `max_size` was not set.

    Attributes:
        name: Letters, digits, ``.``, ``_`` and ``-``, at most 64 of them.
        create: Whether this is the creator's endpoint. By default that depends on whether
            it is listened at or connected to; if it is given, it must agree.
        max_size: Bytes of the largest message, either way; 1 MiB by default. The creator's.
        max_count: How many of the largest messages fit each direction's memory, of which
            only as much is used as was once on its way at a time; 8 by default. The
            creator's.
        open_timeout: Seconds that connecting waits for the creator to come and to hand
            memory over, of those of `connect_timeout`.
        directory: Where creator and others meet, which only this user may enter. By default
            ``/run/user/UID/trio-mcp`` where the system has that, else ``/tmp/trio-mcp-UID``.
        max_connections: Connections served at a time, each with memory of its own.
    """

    scheme = "shm"
    target_fields = ("name",)

    name: str = DEFAULT_CHANNEL_NAME
    create: bool | None = None
    max_size: _Positive | None = None
    max_count: _Positive | None = None
    open_timeout: _Seconds = SHARED_OPEN_TIMEOUT
    directory: str | None = None
    max_connections: _Positive = DEFAULT_SHARED_CONNECTIONS

    def __post_init__(self) -> None:
        """Check the name and the sizes.

        Raises:
            ConfigurationError: As for every endpoint.
        """
        super().__post_init__()
        if not is_channel_name(self.name):
            raise ConfigurationError(
                f"name must be 1 to 64 letters, digits, '.', '_' or '-', not {self.name[:80]!r}"
            )
        if self.directory is not None and (
            not self.directory.startswith("/") or "\0" in self.directory
        ):
            raise ConfigurationError("directory must be an absolute path")
        if self.max_size is not None or self.max_count is not None:
            _ = self.ring_bytes

    @property
    def message_bytes(self) -> int:
        """Bytes of the largest message that the creator takes and sends."""
        limit = self.options.max_message_bytes
        if self.max_size is not None:
            return min(self.max_size, limit)
        return DEFAULT_SHARED_MESSAGE_BYTES if limit == DEFAULT_MAX_MESSAGE_BYTES else limit

    @property
    def ring_bytes(self) -> int:
        """Bytes of each direction's memory.

        Raises:
            ConfigurationError: It is too much.
        """
        largest = self.message_bytes if self.max_size is None else self.max_size
        count = DEFAULT_SHARED_MESSAGES if self.max_count is None else self.max_count
        if largest * count > MAX_RING_BYTES:
            raise ConfigurationError(
                f"max_size times max_count is {largest * count} bytes, over the"
                f" {MAX_RING_BYTES} that one direction can have"
            )
        return largest * count

    def target(self) -> str:
        """``//NAME``."""
        return f"//{self.name}"


def is_channel_name(text: str) -> bool:
    """Whether this may be the name of a channel."""
    return _NAME.fullmatch(text) is not None


def parse_shm(target: str, parameters: Mapping[str, object]) -> ShmEndpoint:
    """Make an endpoint of ``//NAME``, or ``NAME``, and options; without a name it is mcp-shm.

    Raises:
        ConfigurationError: Something is unknown, given twice, or no such value.
    """
    given: dict[str, object] = {}
    for key, value in parameters.items():
        name = _ALIASES.get(key, key)
        if name in given:
            raise ConfigurationError(f"{name} is given twice")
        given[name] = value
    name = target.removeprefix("//")
    if name or "name" not in given:
        return read_endpoint(ShmEndpoint, given, name=name or DEFAULT_CHANNEL_NAME)
    return read_endpoint(ShmEndpoint, given)
