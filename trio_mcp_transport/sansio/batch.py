"""Collecting the answers to a batch (revision 2025-03-26) into one array.

Used by channels while a batch is being answered. JSON-RPC 2.0, section 6: "The Server
should respond with an Array containing the corresponding Response objects, after all of
the batch Request objects have been processed." A request that is cancelled gets no
answer, so it must be taken off, or the others would wait for ever.
"""

from __future__ import annotations

import msgspec

from ..jsonrpc import (
    Batch,
    ErrorResponse,
    InvalidMessage,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
    invalid_message_answer,
)

__all__ = ["BatchAnswers"]


class _Cancelled(msgspec.Struct, rename="camel"):
    request_id: RequestId


class _Open:
    """One batch that is being answered."""

    def __init__(self) -> None:
        self.waiting: set[RequestId] = set()
        self.answers: list[Message] = []


class BatchAnswers:
    """The batches of one connection that are not answered yet."""

    def __init__(self) -> None:
        self._by_id: dict[RequestId, _Open] = {}

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def add(self, batch: Batch) -> tuple[list[Message], list[Message]]:
        """Take a received batch apart.

        Returns:
            The valid messages, in order, and the answers to send at once if nothing in
            the batch is left to wait for (only broken items), else none.
        """
        open_ = _Open()
        messages: list[Message] = []
        for item in batch.items:
            if isinstance(item, InvalidMessage):
                if item.answerable:
                    open_.answers.append(invalid_message_answer(item))
                continue
            if isinstance(item, Request):
                if item.id in self._by_id:
                    open_.answers.append(
                        invalid_message_answer(
                            InvalidMessage(
                                "the id belongs to a request in flight", request_id=item.id
                            )
                        )
                    )
                    continue
                self._by_id[item.id] = open_
                open_.waiting.add(item.id)
            messages.append(item)
        return messages, self._finished(open_)

    def answer(self, message: Message) -> list[Message] | None:
        """Take an outgoing message, if it answers a request of a batch.

        Returns:
            None if it does not belong here and is to be sent as it is; otherwise the
            answers that are to be sent now: all of the batch's, once it is complete.
        """
        if not isinstance(message, Response | ErrorResponse) or message.id is None:
            return None
        open_ = self._by_id.pop(message.id, None)
        if open_ is None:
            return None
        open_.waiting.discard(message.id)
        open_.answers.append(message)
        return self._finished(open_)

    def cancelled(self, notification: Notification) -> list[Message]:
        """Take off what a received `notifications/cancelled` names.

        Returns:
            The answers that are to be sent now, if it was the last one missing.
        """
        try:
            request_id = notification.params_as(_Cancelled).request_id
        except msgspec.ValidationError:
            return []
        open_ = self._by_id.pop(request_id, None)
        if open_ is None:
            return []
        open_.waiting.discard(request_id)
        return self._finished(open_)

    def _finished(self, open_: _Open) -> list[Message]:
        # "If there are no Response objects contained within the Response array [...] the
        # server MUST NOT return an empty Array".
        return [] if open_.waiting else open_.answers
