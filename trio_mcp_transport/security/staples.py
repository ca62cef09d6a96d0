"""What a server staples: an OCSP response that is renewed before it expires.

`StapleSource.staple_for` is called in each handshake of a server; `run` is a task that the
program starts where the staples come from an async function. An expired response is never
stapled: clients refuse those, while without any only those refuse that insist on one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Self

import trio

from ..abc import EventHandler

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["StapleSource"]


class StapleSource:
    """Where a server's staples come from: files, or a function."""

    @classmethod
    def from_files(
        cls,
        *paths: str,
        check_interval: float = 60.0,
        on_event: EventHandler | None = None,
    ) -> Self:
        """Staple what is in files, each the DER of one OCSPResponse.

        They are looked at during handshakes, at most every `check_interval` seconds, and
        read again when they have changed.
        """
        raise NotImplementedError

    @classmethod
    def from_function(
        cls,
        fetch: Callable[[], bytes] | Callable[[], Awaitable[bytes]],
        *,
        retry_interval: float = 60.0,
        on_event: EventHandler | None = None,
    ) -> Self:
        """Staple what a function gives: sync ones are called in a handshake that finds the
        staple half way to its end, async ones by `run` at the same time.
        """
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep staples fresh until cancelled."""
        raise NotImplementedError

    def staple_for(self, leaf: x509.Certificate, now: float) -> bytes:
        """The staple for a certificate, or ``b""`` where there is none that is of use.

        Args:
            leaf: The certificate that the handshake shows.
            now: Epoch seconds.
        """
        raise NotImplementedError
