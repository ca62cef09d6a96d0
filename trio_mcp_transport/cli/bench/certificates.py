"""The certificates of a run, and how the others are told to use them.

They are made once for each run, in its directory, and used by everybody.
"""

from __future__ import annotations

import ssl
from urllib.parse import quote

from ..cert import Files
from .cases import Task

__all__ = ["client_context", "client_options", "server_context", "server_options"]


def server_options(task: Task) -> str:
    """What an endpoint of ours that listens has in its query."""
    files = Files.within(task.certificates)
    return f"cert_file={quote(files.server_cert)}&key_file={quote(files.server_key)}"


def client_options(task: Task) -> str:
    """What an endpoint of ours that is connected to has in its query."""
    return f"ca_file={quote(Files.within(task.certificates).ca)}"


def server_context(directory: str) -> ssl.SSLContext:
    """What the standard library's servers need."""
    files = Files.within(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(files.server_cert, files.server_key)
    return context


def client_context(directory: str) -> ssl.SSLContext:
    """What the standard library's clients need."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(Files.within(directory).ca)
    return context
