"""Start a server again when it ends unexpectedly.

"If the server process exits unexpectedly, the client SHOULD restart it" (MCP, stdio
transport, Shutdown). A channel cannot hide that: requests in flight are lost, and a legacy
server knows nothing of the session that it had. So the unit that is run again is the
conversation: open, then use. What was in flight fails, and the program decides what it
repeats.

Called by programs. It knows neither processes nor peers, only what can be opened and what
its failures look like.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import msgspec
import trio

from .abc import ChannelBroken, ChannelEvent, EventHandler
from .errors import ConfigurationError, ConnectFailed
from .reporting import report

__all__ = ["RestartPolicy", "run_with_restarts"]

C = TypeVar("C")
T = TypeVar("T")


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and after how long.

    Attributes:
        max_restarts: Restarts in a row; `math.inf` for no limit.
        initial_delay: Seconds before the first of them; doubled for each further one.
        max_delay: Seconds that the doubled delay never exceeds.
        steady_after: A conversation that went on for so many seconds was no failed start:
            counting begins anew after it.

    Raises:
        ConfigurationError: One of them is negative.
    """

    max_restarts: float = 3
    initial_delay: float = 0.5
    max_delay: float = 30.0
    steady_after: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_restarts", "initial_delay", "max_delay", "steady_after"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"{name} must not be negative, but {getattr(self, name)}")

    def delay(self, restarts: int) -> float | None:
        """Seconds to wait before the next restart; None if there shall be none.

        Args:
            restarts: How many there were in a row before it.
        """
        if restarts >= self.max_restarts:
            return None
        # Floats overflow at 2**1024, long after any limit was reached.
        return min(math.ldexp(self.initial_delay, min(restarts, 1000)), self.max_delay)


async def run_with_restarts(
    open_connection: Callable[[], AbstractAsyncContextManager[C]],
    use: Callable[[C], Awaitable[T]],
    policy: RestartPolicy | None = None,
    *,
    on_event: EventHandler | None = None,
) -> T:
    """Open a connection and use it; if it ends unexpectedly, do both again.

    ::

        policy = RestartPolicy(max_restarts=5)
        await run_with_restarts(lambda: open_peer("stdio:python server.py"), use, policy)

    An end is unexpected when `use` raises `ChannelBroken` or `trio.EndOfChannel`, or when
    opening raises `ConnectFailed` after it has succeeded once: a server that cannot be
    started at all is not tried again. Every other exception, a `ConnectFailed` of `use`'s
    own among them, and `Cancelled`, passes through. `use` must make its session anew each
    time.

    Args:
        open_connection: Gives a new context manager each time: ``open_channel`` or
            ``open_peer`` with its arguments bound.
        use: The conversation; called anew with each connection.
        policy: `RestartPolicy` with its defaults if None.
        on_event: Told ``connection.restarting`` before each wait; logged without it.

    Returns:
        What `use` returned.

    Raises:
        ChannelBroken: The last failure, when there were too many in a row.
        trio.EndOfChannel: Likewise.
        ConnectFailed: Likewise, or the first start failed.
    """
    policy = policy or RestartPolicy()
    restarts = 0
    opened_before = False
    while True:
        opened_at: float | None = None
        try:
            async with open_connection() as connection:
                opened_at, opened_before = trio.current_time(), True
                return await use(connection)
        except (ChannelBroken, trio.EndOfChannel, ConnectFailed) as error:
            if opened_at is None:
                if not opened_before:
                    raise
            elif isinstance(error, ConnectFailed):
                raise  # something else that `use` connects to
            elif trio.current_time() - opened_at >= policy.steady_after:
                restarts = 0
            delay = policy.delay(restarts)
            if delay is None:
                raise
            failure = error
        restarts += 1
        report(
            on_event,
            ChannelEvent(
                name="connection.restarting",
                message=f"restart {restarts} in {delay:g} s after: {failure}",
                error=failure,
            ),
        )
        await trio.sleep(delay)
