"""Policies: who may talk to a server, and what browsers are told. Decisions are pure."""

from __future__ import annotations

from ..public_paths import show_public_paths as _show_public_paths
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

_show_public_paths(__name__)  # ruff: ignore[non-empty-init-module]
