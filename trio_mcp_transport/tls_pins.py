"""The text forms of a pin: what somebody may write for the SHA-256 of a public key.

Called by `tls_settings`, so that a pin which can never match is refused where it is
written, and by `security.pinning`, which compares. Pure; knows nothing of certificates.
"""

from __future__ import annotations

import base64
import re

from .errors import ConfigurationError

__all__ = ["format_pin", "parse_pin"]

_PREFIX = re.compile(r"(?:pin-)?sha-?256[/:=]", re.IGNORECASE)
_HEX = re.compile(r"[0-9a-fA-F]{64}|[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){31}")
#: curl writes two slashes: sha256//BASE64.
_BASE64 = re.compile(r"/?([A-Za-z0-9+/_-]{43})=?")
_STANDARD = str.maketrans("-_", "+/")


def parse_pin(text: str) -> bytes:
    """The digest that a pin names.

    Accepted are base64 (standard or URL-safe, its one ``=`` may be left out) and hex (with
    or without colons, upper or lower case), each alone or after ``sha256/``, ``sha256:`` or,
    as curl has it, ``sha256//``.

    Returns:
        32 bytes: the SHA-256 of a DER-encoded SubjectPublicKeyInfo (RFC 7469, section 2.4).

    Raises:
        ConfigurationError: It is none of these; the text says what is wrong with it.
    """
    prefix = _PREFIX.match(text.strip())
    digest = text.strip()[prefix.end() if prefix else 0 :]
    if _HEX.fullmatch(digest):
        return bytes.fromhex(digest.replace(":", ""))
    if match := _BASE64.fullmatch(digest):
        encoded = match[1].translate(_STANDARD) + "="
        found = base64.b64decode(encoded)
        # 43 characters have two bits more than 32 bytes, which must be zero: or a typing
        # error in the last one would go unnoticed.
        if format_pin(found).endswith(f"/{encoded}"):
            return found
    hint = "; write a plus sign in a URL as %2B, or the pin as hex" if " " in digest else ""
    raise ConfigurationError(
        f"{text[:120]!r} is no pin: needed are the 32 bytes of a SHA-256 as base64 "
        f"(44 characters) or hex (64 digits), such as sha256/BASE64{hint}"
    )


def format_pin(digest: bytes) -> str:
    """The form in which pins are shown: ``sha256/`` and standard base64."""
    return f"sha256/{base64.b64encode(digest).decode()}"
