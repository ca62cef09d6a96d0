"""The client's side of `subscriptions/listen`: what changed at a modern server."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec
import trio

from .errors import LocalProtocolError, RequestTimeout
from .hub import LIST_KINDS, SubscriptionFilter, Topic
from .jsonrpc import Notification
from .limits import MAX_CANCELLED_CLOSE_SECONDS, MAX_SUBSCRIBED_URIS

if TYPE_CHECKING:
    from .peer import Peer

__all__ = ["Subscription"]

_UPDATED = "notifications/resources/updated"
_LIST_CHANGED: dict[str, str] = {kind: f"notifications/{kind}/list_changed" for kind in LIST_KINDS}


class _Params(msgspec.Struct):
    notifications: SubscriptionFilter = SubscriptionFilter()
    uri: str | None = None


class Subscription:
    """An open subscription: enter it, then iterate over the notifications.

    ::

        async with Subscription(peer, tools=True, resources=["file:///a"]) as changes:
            async for notification in changes:
                ...

    A change that is not fetched yet is not queued twice, so a slow reader costs nothing.
    What the server agreed to is all that is taken: the rest is counted and dropped.
    The iteration ends when the server ends the subscription. Leaving the block cancels it.

    Args:
        peer: A peer that found a modern server.
        tools: Whether to be told when the list of tools changes.
        prompts: Likewise for prompts.
        resource_list: Likewise for the list of resources.
        resources: URIs of the resources whose changes are wanted.

    Attributes:
        dropped: Notifications of what was not agreed on, and of parts of a resource while
            1000 changes wait to be fetched.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        tools: bool = False,
        prompts: bool = False,
        resource_list: bool = False,
        resources: Sequence[str] = (),
    ) -> None:
        self._peer = peer
        self._wanted = SubscriptionFilter(tools, prompts, resource_list, list(resources))
        self._granted: SubscriptionFilter | None = None
        self._topics: set[Topic] = set()
        self.dropped = 0
        self._scope = trio.CancelScope()
        self._waiting: dict[tuple[str, str | None], Notification] = {}
        self._changed = trio.Event()
        self._ended = False
        self._over = False
        self._failure: Exception | None = None

    @property
    def granted(self) -> SubscriptionFilter:
        """What the server agreed to: a part of what was wanted.

        Raises:
            LocalProtocolError: The subscription was not entered.
        """
        if self._granted is None:
            raise LocalProtocolError("the subscription is not open")
        return self._granted

    async def __aenter__(self) -> Self:
        """Subscribe, and wait for the server's acknowledgement.

        Raises:
            LocalProtocolError: The peer did not find a modern server.
            RequestTimeout: There was no acknowledgement within the request timeout.
            RpcError: The server refused.
            ChannelBroken: The channel failed.
            trio.ClosedResourceError: The peer is closed.
        """
        negotiated = self._peer.negotiated
        if negotiated is None or negotiated.era != "modern":
            raise LocalProtocolError("subscriptions need a modern server")
        self._peer.start_soon(self._run, "a subscription")
        seconds = self._peer.request_timeout
        with trio.move_on_after(seconds) as patience:
            try:
                while self._granted is None and not self._ended:
                    await self._wait()
            except BaseException:
                self._scope.cancel()
                raise
        if self._failure is not None:
            raise self._failure
        if self._granted is None and not patience.cancelled_caught:
            raise LocalProtocolError("the server ended the subscription before it began")
        if self._granted is None:
            self._scope.cancel()
            raise RequestTimeout(f"no acknowledgement of the subscription within {seconds:g} s")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancel the subscription."""
        self._scope.cancel()
        with trio.move_on_after(MAX_CANCELLED_CLOSE_SECONDS, shield=True):
            # The task only has to notice; it waits for nothing else.
            while not self._ended:
                await self._wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Notification:
        """Wait for the next change.

        Raises:
            StopAsyncIteration: The server ended the subscription.
            ChannelBroken: The channel failed.
            trio.ClosedResourceError: This side closed the peer.
        """
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._failure is not None:
                raise self._failure
            if self._ended or self._over:
                raise StopAsyncIteration
            await self._wait()
        return self._waiting.pop(next(iter(self._waiting)))

    async def _wait(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._peer.request(
                    "subscriptions/listen",
                    {"notifications": self._wanted},
                    timeout=float("inf"),
                    max_timeout=float("inf"),
                    on_notification=self._receive,
                )
        except Exception as error:  # whoever iterates gets it
            self._failure = error
        finally:
            self._ended = True
            self._changed.set()

    def _receive(self, notification: Notification) -> None:
        method = notification.method
        if method == "notifications/cancelled":
            # The result should follow, but a server may leave it out.
            self._over = True
            self._changed.set()
            return
        params = notification.params_as(_Params)
        if method == "notifications/subscriptions/acknowledged":
            self._granted = params.notifications
            self._topics = self._granted.topics() & self._wanted.topics()
        elif method == _UPDATED and params.uri is not None and self._takes(params.uri):
            self._waiting[method, params.uri] = notification
        elif method in {_LIST_CHANGED[name] for kind, name in self._topics if kind == "list"}:
            self._waiting[method, None] = notification
        else:
            self.dropped += 1
            return
        self._changed.set()

    def _takes(self, uri: str) -> bool:
        """Whether this resource may be put to what waits, which must not grow for ever."""
        if ("resource", uri) in self._topics or (_UPDATED, uri) in self._waiting:
            return True
        # MCP schema, notifications/resources/updated: "This might be a sub-resource of the
        # one that the client actually subscribed to."
        return len(self._waiting) < MAX_SUBSCRIBED_URIS and any(
            kind == "resource" and uri.startswith(f"{name.rstrip('/')}/")
            for kind, name in self._topics
        )
