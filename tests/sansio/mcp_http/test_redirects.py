"""Redirects: the same request, the same origin, nothing else."""

from __future__ import annotations

import pytest

from trio_mcp_transport import UnexpectedRedirect
from trio_mcp_transport.sansio.mcp_http.redirects import (
    is_redirect,
    is_same_origin,
    redirect_target,
    resolve,
)

pytestmark = pytest.mark.sansio

URL = "http://h.example:8080/mcp?key=1"


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize(
    ("url", "location", "expected"),
    [
        (URL, "/mcp/", "http://h.example:8080/mcp/"),
        (URL, "other", "http://h.example:8080/other"),
        (URL, "?a=b", "http://h.example:8080/mcp?a=b"),
        (URL, "http://H.EXAMPLE.:8080", "http://H.EXAMPLE.:8080/"),
        (URL, "/x#fragment", "http://h.example:8080/x"),
        ("http://h/a", "http://h:80/b", "http://h:80/b"),
        ("https://h/a", "https://h:443/b", "https://h:443/b"),
        ("http://h/a", "https://h/a", "https://h/a"),
        ("http://[::1]:80/", "http://[0:0::1]/b", "http://[0:0::1]/b"),
    ],
)
def test_the_same_origin_is_followed(status: int, url: str, location: str, expected: str) -> None:
    assert redirect_target(url, status, location) == expected


@pytest.mark.parametrize(
    ("url", "location"),
    [
        (URL, "http://other.example:8080/mcp"),
        (URL, "http://h.example/mcp"),
        (URL, "//evil.example/mcp"),
        (URL, "https://h.example:8080/mcp"),
        ("http://h:8080/a", "https://h/a"),
        ("http://h/a", "https://h:8443/a"),
        ("https://h/a", "http://h/a"),
        ("http://h/a", "https://other/a"),
        (URL, "ftp://h.example:8080/mcp"),
        (URL, "file:///etc/passwd"),
        (URL, "http://user:pw@h.example:8080/"),
        (URL, "http://h.example:99999/"),
        (URL, "http://h.example:0/"),
        (URL, "/with blank"),
        (URL, "http://[::1"),
        (URL, ""),
        (URL, None),
    ],
)
def test_anything_else_is_not(url: str, location: str | None) -> None:
    with pytest.raises(UnexpectedRedirect) as caught:
        redirect_target(url, 307, location)
    assert caught.value.status == 307
    assert caught.value.location == (location or "")
    assert "key=1" not in str(caught.value)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305])
def test_redirects_that_may_change_the_request_are_not_followed(status: int) -> None:
    assert is_redirect(status)
    with pytest.raises(UnexpectedRedirect, match="307"):
        redirect_target(URL, status, "/mcp/")


def test_the_number_of_redirects_has_a_bound() -> None:
    assert redirect_target(URL, 307, "/a", taken=4)
    with pytest.raises(UnexpectedRedirect, match="5 already"):
        redirect_target(URL, 307, "/a", taken=5)


def test_only_redirects_are_redirects() -> None:
    assert not any(map(is_redirect, (200, 202, 304, 400)))
    assert all(map(is_redirect, (307, 308)))


def test_origins_are_compared_as_a_whole() -> None:
    assert is_same_origin("http://h/a", "http://H:80/b")
    assert not is_same_origin("http://h/a", "http://h.evil/a")


def test_a_url_has_a_path_at_least() -> None:
    assert resolve("http://h", "") == "http://h/"
