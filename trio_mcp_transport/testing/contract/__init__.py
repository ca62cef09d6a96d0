"""The channel contract: what every `MessageChannel` must do, as checks that anybody can run."""

from __future__ import annotations

from .suite import CONTRACT_CHECKS, check_channel_contract
from .support import Check, MakePair

__all__ = ["CONTRACT_CHECKS", "Check", "MakePair", "check_channel_contract"]
