"""Tools for tests of transports, machines and whatever stands on them.

The channel contract that every `MessageChannel` must pass, streams with faults, cancels at
every place where a function waits, and machines joined without I/O. Public and stable: a
transport made elsewhere is tested with the same tools as those of this package.
"""

from __future__ import annotations

from ..public_paths import show_public_paths as _show_public_paths
from .certificates import (
    CertificateAuthority,
    IssuedCertificate,
    RevocationStatus,
    SctListMaker,
    write_private,
)
from .contract import CONTRACT_CHECKS, Check, MakePair, check_channel_contract
from .faults import Fault, FaultyStream, cancel_at, cut_after, fail_after, stall_after
from .machines import JoinedMachines, Machine, check_every_cut, drain, feed

__all__ = [
    "CONTRACT_CHECKS",
    "CertificateAuthority",
    "Check",
    "Fault",
    "FaultyStream",
    "IssuedCertificate",
    "JoinedMachines",
    "Machine",
    "MakePair",
    "RevocationStatus",
    "SctListMaker",
    "cancel_at",
    "check_channel_contract",
    "check_every_cut",
    "cut_after",
    "drain",
    "fail_after",
    "feed",
    "stall_after",
    "write_private",
]

_show_public_paths(__name__)  # ruff: ignore[non-empty-init-module]
