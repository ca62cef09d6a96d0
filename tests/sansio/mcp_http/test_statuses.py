"""What a status means to a client: typed errors, challenges, times to wait."""

from __future__ import annotations

import pytest

from trio_mcp_transport import (
    AuthenticationRequired,
    Challenge,
    EndpointNotFound,
    Forbidden,
    HttpStatusError,
    ServerBusy,
    SessionExpired,
)
from trio_mcp_transport.sansio.headers import NO_HEADERS, Headers
from trio_mcp_transport.sansio.mcp_http.statuses import (
    error_of_status,
    parse_challenges,
    parse_retry_after,
)

pytestmark = pytest.mark.sansio


@pytest.mark.parametrize(
    ("status", "in_session", "kind"),
    [
        (400, False, HttpStatusError),
        (401, False, AuthenticationRequired),
        (403, True, Forbidden),
        (404, False, EndpointNotFound),
        (404, True, SessionExpired),
        (405, True, HttpStatusError),
        (429, False, ServerBusy),
        (500, True, HttpStatusError),
        (503, False, ServerBusy),
        (599, False, HttpStatusError),
    ],
)
def test_each_status_has_its_error(status: int, in_session: bool, kind: type) -> None:
    error = error_of_status(status, NO_HEADERS, b"why \xff", in_session=in_session)
    assert type(error) is kind
    assert error.status == status
    assert error.text == "why �"
    assert str(status) in str(error)
    assert "why" not in str(error)


def test_facts_of_the_head_are_in_the_error() -> None:
    headers = Headers([("WWW-Authenticate", 'Bearer realm="x"'), ("Retry-After", "7")])
    for status in (401, 403):
        error = error_of_status(status, headers)
        assert isinstance(error, AuthenticationRequired | Forbidden)
        assert error.challenges == (Challenge("bearer", {"realm": "x"}),)
    busy = error_of_status(503, headers)
    assert isinstance(busy, ServerBusy)
    assert busy.retry_after == 7


def test_a_long_body_is_cut() -> None:
    assert len(error_of_status(500, NO_HEADERS, b"x" * 10_000).text) == 2000


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ()),
        ([""], ()),
        (["Basic"], (Challenge("basic"),)),
        (["Negotiate YWJj=="], (Challenge("negotiate", {}, "YWJj=="),)),
        (
            ['Bearer resource_metadata="https://h/.well-known/x", scope="a b"'],
            (
                Challenge(
                    "bearer", {"resource_metadata": "https://h/.well-known/x", "scope": "a b"}
                ),
            ),
        ),
        (
            ['Digest realm="a, b", nonce=1, Bearer error="x\\"y"'],
            (
                Challenge("digest", {"realm": "a, b", "nonce": "1"}),
                Challenge("bearer", {"error": 'x"y'}),
            ),
        ),
        (["One", 'Two A="1", a="2"'], (Challenge("one"), Challenge("two", {"a": "1"}))),
        (["One, Two"], (Challenge("one"), Challenge("two"))),
        (['Bearer realm="never ends'], (Challenge("bearer"),)),
        (["@@@"], ()),
    ],
)
def test_challenges_are_read(values: list[str], expected: tuple[Challenge, ...]) -> None:
    assert parse_challenges(values) == expected


def test_no_more_challenges_are_read_than_make_sense() -> None:
    assert len(parse_challenges([", ".join(f"s{n}" for n in range(100))])) == 16


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        (None, None, None),
        ("120", None, 120),
        ("0", None, 0),
        ("999999999", None, 86400),
        ("-1", None, None),
        ("soon", None, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None, None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:27:30 GMT", 30),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:29:00 GMT", 0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:29:00 -0000", None),
    ],
)
def test_the_time_to_wait_is_read(
    value: str | None, date: str | None, seconds: float | None
) -> None:
    assert parse_retry_after(value, date) == seconds
