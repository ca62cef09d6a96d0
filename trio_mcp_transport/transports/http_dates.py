"""The ``Date`` of responses. Called by `HttpConnection` for each head that it writes.

A server sends a dozen heads time and again, so one with its date is made once a second.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import ClassVar

from ..sansio.http1 import ResponseHead

__all__ = ["dated"]

#: Heads that are kept with their date: there are a dozen constant ones.
_MAX_DATED_HEADS = 64


class _Dates:
    """Heads with the date, made once a second for those that come again and again."""

    second = 0
    text = ""
    heads: ClassVar[dict[tuple[int, int], tuple[ResponseHead, ResponseHead]]] = {}


def dated(head: ResponseHead) -> ResponseHead:
    """The head with a ``Date`` of this second, unless it has one."""
    # RFC 9110, section 6.6.1: "An origin server with a clock MUST generate a Date header
    # field in all 2xx (Successful), 3xx (Redirection), and 4xx (Client Error) responses".
    now = int(time.time())
    if now != _Dates.second:
        _Dates.second, _Dates.text = now, formatdate(now, usegmt=True)
        _Dates.heads.clear()
    # Heads are made for each reply, of headers that are the same objects time and again.
    key = (head.status, id(head.headers))
    found = _Dates.heads.get(key)
    if found is not None and found[0].headers is head.headers and found[0].reason == head.reason:
        return found[1]
    if "date" in head.headers:
        return head
    with_date = ResponseHead(head.status, head.headers.with_("date", _Dates.text), head.reason)
    # One that tells a session comes once, and would take the place of those that come again.
    if len(_Dates.heads) < _MAX_DATED_HEADS and "mcp-session-id" not in head.headers:
        _Dates.heads[key] = (head, with_date)
    return with_date
