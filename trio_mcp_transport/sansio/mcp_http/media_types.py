"""Reading `Accept` and `Content-Type`: what a client takes, and what it has sent.

Pure and lenient where RFC 9110 is: parameters, quality values and wildcards are
understood, and what cannot be read counts as not being there.
"""

from __future__ import annotations

import msgspec

from ..remembering import remember_short

__all__ = ["Accepted", "is_json", "read_accept"]


class Accepted(msgspec.Struct, frozen=True):
    """Which of the two content types of MCP a client takes."""

    json: bool
    sse: bool


@remember_short
def read_accept(value: str | None) -> Accepted:
    """Read an ``Accept`` header field; None is an absent one, which takes anything.

    RFC 9110, section 12.5.1: the most specific range decides about a type, ``q=0`` means
    "not acceptable", and "a request without any Accept header field implies that the user
    agent will accept any media type in response".
    """
    if not value:
        return Accepted(json=True, sse=True)
    # How specific the best range was so far, and whether it takes the type.
    json = sse = (0, False)
    for part in value.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        taken = _quality(parameters) > 0
        if media_range == "*/*":
            json, sse = max(json, (1, taken)), max(sse, (1, taken))
        elif media_range == "application/*":
            json = max(json, (2, taken))
        elif media_range == "application/json":
            json = max(json, (3, taken))
        elif media_range == "text/*":
            sse = max(sse, (2, taken))
        elif media_range == "text/event-stream":
            sse = max(sse, (3, taken))
    return Accepted(json=json[1], sse=sse[1])


@remember_short
def is_json(content_type: str | None) -> bool:
    """Whether a ``Content-Type`` says ``application/json``, in UTF-8 or silent about it."""
    if content_type is None:
        return False
    essence, *parameters = (piece.strip().lower() for piece in content_type.split(";"))
    if essence != "application/json":
        return False
    charsets = [value for name, _, value in map(_split, parameters) if name == "charset"]
    # "JSON-RPC messages MUST be UTF-8 encoded."
    return all(charset.strip('"') in {"utf-8", "utf8"} for charset in charsets)


def _split(parameter: str) -> tuple[str, str, str]:
    return parameter.partition("=")


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0
