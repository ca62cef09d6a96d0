"""What the status of a response means to a client of MCP: a typed error.

Pure. Called for every response that is no success; also reads the two header fields that
come with refusals, `WWW-Authenticate` and `Retry-After`. Nothing that they name is fetched.
"""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from ...errors import (
    AuthenticationRequired,
    Challenge,
    EndpointNotFound,
    Forbidden,
    HttpError,
    HttpStatusError,
    ServerBusy,
    SessionExpired,
)
from ..headers import Headers

__all__ = ["error_of_status", "parse_challenges", "parse_retry_after"]

#: How much of an error's body is kept for a person to read.
_TEXT_CHARACTERS = 2000
#: Challenges that are read of one response; more is nobody's honest answer.
_MAX_CHALLENGES = 16
_MAX_RETRY_AFTER = 24 * 3600.0

# RFC 9110, section 11.3 and 5.6.4.
_TOKEN = r"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:[ \t]+|(?=[\s,]|$))")
_PARAMETER = re.compile(rf'[\s,]*({_TOKEN})[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|{_TOKEN})[ \t]*(?=,|$)')
_TOKEN68 = re.compile(r"([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|$)")


def error_of_status(
    status: int, headers: Headers, body: bytes = b"", *, in_session: bool = False
) -> HttpError:
    """The typed error for a response that is no success.

    Args:
        status: Its status.
        headers: Its header fields.
        body: What is known of its body.
        in_session: Whether the request named a session.
    """
    text = body.decode("utf-8", "replace")[:_TEXT_CHARACTERS]
    said = f"the server answered {status} {_phrase(status)}".rstrip()
    if status == 401:
        challenges = parse_challenges(headers.get_all("www-authenticate"))
        return AuthenticationRequired(said, text=text, challenges=challenges)
    if status == 403:
        challenges = parse_challenges(headers.get_all("www-authenticate"))
        return Forbidden(said, text=text, challenges=challenges)
    if status == 404 and in_session:
        # 2025-11-25: the server "MUST respond to requests containing that session ID with
        # HTTP 404 Not Found" after it has terminated the session.
        return SessionExpired(f"{said}: the session has ended", status=status, text=text)
    if status == 404:
        return EndpointNotFound(said, status=status, text=text)
    if status in {429, 503}:
        return ServerBusy(
            said,
            status=status,
            text=text,
            retry_after=parse_retry_after(headers.get("retry-after"), headers.get("date")),
        )
    return HttpStatusError(said, status=status, text=text)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def parse_challenges(values: list[str]) -> tuple[Challenge, ...]:
    """Read `WWW-Authenticate`; what is malformed ends the reading of its field.

    Args:
        values: The values of the fields, as there may be several.
    """
    found: list[Challenge] = []
    for value in values:
        position = 0
        while len(found) < _MAX_CHALLENGES:
            scheme = _SCHEME.match(value, position)
            if scheme is None:
                break
            position = scheme.end()
            parameters: dict[str, str] = {}
            token: str | None = None
            while (parameter := _PARAMETER.match(value, position)) is not None:
                text = parameter.group(2)
                if text.startswith('"'):
                    text = re.sub(r"\\(.)", r"\1", text[1:-1])
                parameters.setdefault(parameter.group(1).lower(), text)
                position = parameter.end()
            if not parameters and (lone := _TOKEN68.match(value, position)) is not None:
                token, position = lone.group(1), lone.end()
            found.append(Challenge(scheme.group(1).lower(), parameters, token))
    return tuple(found)


def parse_retry_after(value: str | None, date: str | None = None) -> float | None:
    """Seconds to wait (RFC 9110, section 10.2.3), at most a day; None if it does not say.

    Args:
        value: The field: seconds, or a date.
        date: The response's own `Date`, which a date is compared with: the clock of the
            server that wrote both.
    """
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), _MAX_RETRY_AFTER)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(date or "")
        seconds = (until - now).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER)
