"""The machine of TLS, and what comes out of it.

The face to import them from. It can be imported without OpenSSL, which only a machine needs.
"""

from __future__ import annotations

from ..public_paths import show_public_paths as _show_public_paths
from .tls_machine import TlsData, TlsEvent, TlsHandshakeCompleted, TlsMachine

__all__ = ["TlsData", "TlsEvent", "TlsHandshakeCompleted", "TlsMachine"]

_show_public_paths(__name__)
