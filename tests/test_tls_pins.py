"""What may be written for a pin."""

from __future__ import annotations

import base64

import pytest

from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.tls_pins import format_pin, parse_pin

pytestmark = pytest.mark.security

DIGEST = bytes(range(255, 223, -1))
BASE64 = base64.b64encode(DIGEST).decode()
HEX = DIGEST.hex()


@pytest.mark.parametrize(
    "text",
    [
        BASE64,
        BASE64.rstrip("="),
        base64.urlsafe_b64encode(DIGEST).decode(),
        HEX,
        HEX.upper(),
        DIGEST.hex(":"),
        DIGEST.hex(":").upper(),
    ],
)
@pytest.mark.parametrize("prefix", ["", "sha256/", "sha256:", "SHA256:", "sha-256=", "pin-sha256="])
def test_every_form_names_the_same_key(prefix: str, text: str) -> None:
    assert parse_pin(prefix + text) == DIGEST
    assert parse_pin(f" {prefix}{text}\n") == DIGEST


def test_slashes_of_the_digest_and_of_the_form_are_not_mixed_up() -> None:
    slashes = base64.b64decode("//////" + BASE64[6:])
    for form in ("", "sha256/", "sha256//", "sha256:"):
        for encoded in (base64.b64encode(slashes).decode(), BASE64):
            for text in (encoded, encoded.rstrip("=")):
                assert parse_pin(form + text) == base64.b64decode(encoded)
    with pytest.raises(ConfigurationError):
        parse_pin("sha256///" + BASE64)


def test_the_shown_form_is_read_again() -> None:
    assert format_pin(DIGEST) == f"sha256/{BASE64}"
    assert parse_pin(format_pin(DIGEST)) == DIGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        HEX[:-1],
        HEX + "00",
        HEX[:-1] + "g",
        DIGEST.hex(":", 2),
        DIGEST.hex(":") + ":",
        BASE64[:-2] + "=",
        BASE64 + "=",
        "sha1/" + BASE64,
        "sha384:" + HEX,
        # 43 characters carry 258 bits: two of the last one must be zero.
        base64.b64encode(b"\0" * 32).decode()[:-2] + "B=",
        BASE64[:-4] + "é===",
    ],
)
def test_what_could_never_match_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no pin: needed are the 32 bytes") as caught:
        parse_pin(text)
    assert repr(text) in str(caught.value)


def test_a_plus_sign_that_a_url_turned_into_a_space_is_explained() -> None:
    pin = format_pin(b"\xfb\xef\xbe" * 10 + b"\xfb\xef")
    assert "+" in pin
    with pytest.raises(ConfigurationError, match="write a plus sign in a URL as %2B"):
        parse_pin(pin.replace("+", " "))


def test_a_long_text_is_not_repeated_in_full() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_pin("x" * 10_000)
    assert len(str(caught.value)) < 400
