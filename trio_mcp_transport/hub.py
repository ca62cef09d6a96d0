"""Changes of a server's tools, prompts and resources, to everyone who wants to know.

A `Hub` belongs to a server and outlives its connections; `Router(hub=...)` subscribes its
clients: modern ones by `subscriptions/listen`, legacy ones by `resources/subscribe` and by
the `listChanged` capability.

Each subscriber has its own set of what it has yet to be told, which is at most what it
subscribed to: a change that is waiting already is not put there twice. So a subscriber that
does not read costs a bounded set, and neither the hub nor another subscriber ever waits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import trio
from msgspec import UNSET

from .errors import RpcError
from .jsonrpc import ErrorCode, Notification, RequestId
from .limits import MAX_SUBSCRIBED_URIS
from .sansio.metadata import SUBSCRIPTION_ID_KEY

if TYPE_CHECKING:
    from .peer import Peer

__all__ = [
    "LIST_KINDS",
    "Hub",
    "LegacySubscriber",
    "ListKind",
    "ModernSubscriber",
    "SubscriptionFilter",
    "Topic",
]

ListKind: TypeAlias = Literal["tools", "prompts", "resources"]
#: What changed: a list, or the resource with this URI.
Topic: TypeAlias = tuple[Literal["list", "resource"], str]

LIST_KINDS: tuple[ListKind, ...] = ("tools", "prompts", "resources")


class SubscriptionFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client wants to be told, or the part of it that a server agreed to."""

    toolsListChanged: bool = False  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's names)
    promptsListChanged: bool = False  # ruff: ignore[mixed-case-variable-in-class-scope]
    resourcesListChanged: bool = False  # ruff: ignore[mixed-case-variable-in-class-scope]
    resourceSubscriptions: list[str] = []  # ruff: ignore[mixed-case-variable-in-class-scope]

    def topics(self) -> set[Topic]:
        """The same as a set."""
        found: set[Topic] = {
            ("list", kind) for kind in LIST_KINDS if getattr(self, f"{kind}ListChanged")
        }
        found.update(("resource", uri) for uri in self.resourceSubscriptions)
        return found


def _notification(topic: Topic, subscription_id: RequestId | None) -> Notification:
    kind, name = topic
    params: dict[str, object] = {} if kind == "list" else {"uri": name}
    if subscription_id is not None:
        # MCP patterns/subscriptions: "All notifications delivered on the stream carry
        # io.modelcontextprotocol/subscriptionId in _meta".
        params["_meta"] = {SUBSCRIPTION_ID_KEY: subscription_id}
    method = (
        f"notifications/{name}/list_changed"
        if kind == "list"
        else "notifications/resources/updated"
    )
    return Notification(method, params or UNSET)


class _Subscriber:
    """Who has yet to be told what."""

    def __init__(self) -> None:
        self.topics: set[Topic] = set()
        self.pending: dict[Topic, None] = {}
        self.ended = False

    def offer(self, topic: Topic) -> None:
        self.pending[topic] = None
        self.wake()

    def take(self) -> Topic:
        topic = next(iter(self.pending))
        del self.pending[topic]
        return topic

    def wake(self) -> None:
        raise NotImplementedError


class Hub:
    """Where a server says what has changed. All of it is synchronous."""

    def __init__(self) -> None:
        self._by_topic: defaultdict[Topic, dict[_Subscriber, None]] = defaultdict(dict)
        self._subscribers: dict[_Subscriber, None] = {}

    def changed(self, kind: ListKind) -> None:
        """The list of tools, prompts or resources has changed.

        Raises:
            ValueError: There is no such list.
        """
        if kind not in LIST_KINDS:
            raise ValueError(f"kind must be one of {', '.join(LIST_KINDS)}, not {kind!r}")
        self._publish(("list", kind))

    def resource_updated(self, uri: str) -> None:
        """The content of a resource has changed."""
        self._publish(("resource", uri))

    def close(self) -> None:
        """End all subscriptions gracefully, such as before a shutdown."""
        for subscriber in list(self._subscribers):
            subscriber.ended = True
            subscriber.wake()

    @property
    def subscribers(self) -> int:
        """How many subscriptions there are now: listen requests and legacy connections."""
        return len(self._subscribers)

    def _publish(self, topic: Topic) -> None:
        for subscriber in self._by_topic.get(topic, ()):
            subscriber.offer(topic)

    def _subscribe(self, subscriber: _Subscriber, topics: Iterable[Topic]) -> None:
        if subscriber.ended:
            return  # nobody would take it out again
        self._subscribers[subscriber] = None
        for topic in topics:
            subscriber.topics.add(topic)
            self._by_topic[topic][subscriber] = None

    def _unsubscribe(self, subscriber: _Subscriber, topics: Iterable[Topic]) -> None:
        for topic in topics:
            subscriber.topics.discard(topic)
            subscriber.pending.pop(topic, None)
            found = self._by_topic.get(topic)
            if found is not None:
                found.pop(subscriber, None)
                if not found:
                    del self._by_topic[topic]

    def _remove(self, subscriber: _Subscriber) -> None:
        self._unsubscribe(subscriber, list(subscriber.topics))
        self._subscribers.pop(subscriber, None)


class ModernSubscriber(_Subscriber):
    """One `subscriptions/listen` request; runs as its handler."""

    def __init__(self, hub: Hub, peer: Peer, request_id: RequestId) -> None:
        super().__init__()
        self._hub = hub
        self._peer = peer
        self._id = request_id
        self._woken = trio.Event()

    def wake(self) -> None:
        """Something is to be sent."""
        self._woken.set()

    def end(self) -> None:
        """End the subscription from the server's side."""
        self.ended = True
        self.wake()

    async def run(self, granted: SubscriptionFilter) -> dict[str, object]:
        """Send what happens until the client cancels or the server ends it.

        Returns:
            The result of the request: it was the server that ended it.
        """
        send = self._peer.channel.send
        meta = {SUBSCRIPTION_ID_KEY: self._id}
        self._hub._subscribe(self, granted.topics())
        try:
            # "The server MUST send notifications/subscriptions/acknowledged as the first
            # message carrying the subscription's ID".
            await send(
                Notification(
                    "notifications/subscriptions/acknowledged",
                    {"_meta": meta, "notifications": granted},
                )
            )
            while True:
                while self.pending:
                    await send(_notification(self.take(), self._id))
                if self.ended:
                    break
                self._woken = trio.Event()
                await self._woken.wait()
        finally:
            self._hub._remove(self)
        # MCP patterns/cancellation: "A server MUST send notifications/cancelled referencing
        # a subscriptions/listen request ID when it tears down that subscription stream".
        await send(Notification("notifications/cancelled", {"requestId": self._id}))
        # "the response carries io.modelcontextprotocol/subscriptionId in _meta"
        return {"_meta": meta}


class LegacySubscriber(_Subscriber):
    """One legacy connection or session: its resources and the lists it is told about.

    Over HTTP a session subscribes on one exchange and is told on its own channel, whose
    peer may come later: what happens meanwhile waits.
    """

    def __init__(self, hub: Hub, peer: Peer | None, lists: Iterable[ListKind]) -> None:
        super().__init__()
        self._hub = hub
        self._peer = peer
        self._sending = False
        hub._subscribe(self, [("list", kind) for kind in lists])

    def attach(self, peer: Peer) -> None:
        """From now on, and not before, this is who is told."""
        if self._peer is None:
            self._peer = peer
            if self.pending:
                self.wake()

    def add(self, uri: str) -> None:
        """Subscribe to a resource.

        Raises:
            RpcError: There are too many (-32602).
        """
        if len(self.topics) >= MAX_SUBSCRIBED_URIS:
            raise RpcError(ErrorCode.INVALID_PARAMS, "too many resource subscriptions")
        self._hub._subscribe(self, [("resource", uri)])

    def discard(self, uri: str) -> None:
        """Unsubscribe from a resource; one that was not subscribed to is fine."""
        self._hub._unsubscribe(self, [("resource", uri)])

    def end(self) -> None:
        """The connection is over."""
        self.ended = True
        self._hub._remove(self)

    def wake(self) -> None:
        """Something is to be sent: by a task that lives only while that is so."""
        if self._sending or self.ended or self._peer is None:
            return
        try:
            self._peer.start_soon(self._send, "telling of a change")
        except trio.ClosedResourceError:
            return
        self._sending = True

    async def _send(self) -> None:
        assert self._peer is not None
        try:
            while self.pending and not self.ended:
                await self._peer.channel.send(_notification(self.take(), None))
        finally:
            self._sending = False
