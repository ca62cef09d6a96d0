"""The answer to one POST of requests: messages in, HTTP events out.

Made by `ServerEndpoint.judge_body`, used by the exchange's channel. It decides whether the
answer is one JSON document or an event stream, which status it has, and when it is over.
It never waits and remembers nothing that went out.

Theory of operation: an exchange begins undecided. The result alone makes it a document;
the first notification or request, `quiet` or `close_connection` makes it a stream, which
has status 200 whatever follows. What `initialize` has to say before its result is held
back, because the head must name the session, which exists only with a good result.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...jsonrpc import Message, RequestId
from ..eras import Era
from ..http1 import ResponseHead
from .options import ResponseMode
from .streams import EventStream, Step

if TYPE_CHECKING:
    from .sessions import SessionRecord

__all__ = ["ExchangeWriter"]


class ExchangeWriter(EventStream):
    """What answers one POST.

    Attributes:
        waiting: Ids of the requests that have no final answer yet.
        related_id: The id that says which exchange a message belongs to.
        answers_to_session: Whether the answers to requests that are sent here go to the
            session's channel in place of this exchange's.
    """

    waiting: set[RequestId]
    related_id: RequestId | None
    answers_to_session: bool

    @property
    def can_ask(self) -> bool:
        """Whether the server may send requests here at the moment."""
        raise NotImplementedError

    @property
    def lost(self) -> bool:
        """Whether nothing that is said here can reach the client any more."""
        raise NotImplementedError

    def answer(self, message: Message) -> tuple[ResponseHead, bytes] | None:
        """The whole response, if this message makes one; the exchange is over then.

        The quick way for the common case, meant for `Http1Server.send_response`. None
        means that nothing was done: go on with `send`.
        """
        raise NotImplementedError

    def send(self, message: Message) -> Step:
        """Say something.

        Raises:
            LocalProtocolError: It is a request, and `can_ask` is False.
        """
        return self.send_many((message,))

    def send_many(self, messages: Iterable[Message]) -> Step:
        """Say several things with one write; `send` for each of them.

        Raises:
            LocalProtocolError: As `send`.
        """
        raise NotImplementedError

    def quiet(self) -> Step:
        """Nothing was said for `quiet_interval`: begin a stream, where that is wanted."""
        raise NotImplementedError

    def cancel(self, request_id: RequestId) -> Step:
        """A request was cancelled by the client: it gets no answer."""
        raise NotImplementedError

    def finish(self) -> Step:
        """The handler is done: requests without an answer get -32603."""
        raise NotImplementedError
