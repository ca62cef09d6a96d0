"""Policies: who may talk to a server, and what browsers are told. Decisions are pure.

A name is imported when it is asked for: most programs need few of them, and what TLS needs
takes as long to import as all channels do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING

from ..public_paths import import_later as _import_later

if _TYPE_CHECKING:
    from .admission import AdmissionPolicy, Admitted, Answered, Authenticator, Doorkeeper, Verdict
    from .authentication import BearerTokens, forbidden, unauthorized
    from .cors import CorsPolicy, CorsPreset
    from .facts import Address, ConnectionFacts
    from .proxies import ProxyHeader
    from .response_headers import (
        ContentSecurityPolicy,
        FrameOptions,
        ResponseHeaderPolicy,
        SecurityHeadersPreset,
    )
    from .staples import AsyncStapleSource, FunctionStapleSource, StapleFiles, StapleSource
    from .tls_contexts import TlsClient, TlsServer
    from .tls_session import TlsSession

__all__ = [
    "Address",
    "AdmissionPolicy",
    "Admitted",
    "Answered",
    "AsyncStapleSource",
    "Authenticator",
    "BearerTokens",
    "ConnectionFacts",
    "ContentSecurityPolicy",
    "CorsPolicy",
    "CorsPreset",
    "Doorkeeper",
    "FrameOptions",
    "FunctionStapleSource",
    "ProxyHeader",
    "ResponseHeaderPolicy",
    "SecurityHeadersPreset",
    "StapleFiles",
    "StapleSource",
    "TlsClient",
    "TlsServer",
    "TlsSession",
    "Verdict",
    "forbidden",
    "unauthorized",
]

# Names are found by PEP 562, where a checker would take any name for one of these. A test
# holds the lists together.
if not _TYPE_CHECKING:  # ruff: ignore[non-empty-init-module]
    __getattr__ = _import_later(
        __name__,
        {
            "Address": "facts",
            "AdmissionPolicy": "admission",
            "Admitted": "admission",
            "Answered": "admission",
            "AsyncStapleSource": "staples",
            "Authenticator": "admission",
            "BearerTokens": "authentication",
            "ConnectionFacts": "facts",
            "ContentSecurityPolicy": "response_headers",
            "CorsPolicy": "cors",
            "CorsPreset": "cors",
            "Doorkeeper": "admission",
            "FrameOptions": "response_headers",
            "FunctionStapleSource": "staples",
            "ProxyHeader": "proxies",
            "ResponseHeaderPolicy": "response_headers",
            "SecurityHeadersPreset": "response_headers",
            "StapleFiles": "staples",
            "StapleSource": "staples",
            "TlsClient": "tls_contexts",
            "TlsServer": "tls_contexts",
            "TlsSession": "tls_session",
            "Verdict": "admission",
            "forbidden": "authentication",
            "unauthorized": "authentication",
        },
    )
