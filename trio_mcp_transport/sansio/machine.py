"""What all machines have in common: their four verbs, and what comes back from them.

The shape is the one that users of h11 and wsproto know:

* `receive_data(bytes)` stores; `receive_eof()` tells that no more will come.
* `next_event()` returns the next event, or `NEED_DATA`, or `PAUSED` where the machine holds
  its input until the adapter has decided something.
* `send(event)` returns the bytes to write; `send_failed()` tells that they were not
  written.
* `bytes_to_send()`, where a machine has words of its own, drains them.
* `trailing_data` hands over what was not read.

The rules that hold for every machine: receiving and sending have separate states; any
exception out of `next_event` is final for the receiving side, and comes after every event
that preceded the fault; the peer's faults raise `RemoteProtocolError`, this program's own
raise `LocalProtocolError`; the cost is linear in the bytes, however they are cut.
"""

from __future__ import annotations

import enum
from typing import Final, Literal

import msgspec

__all__ = ["NEED_DATA", "PAUSED", "EndOfData", "NeedData", "Paused", "Side"]


class NeedData(enum.Enum):
    """The type of `NEED_DATA`."""

    NEED_DATA = "NEED_DATA"

    def __repr__(self) -> str:
        return self.name


#: `next_event` has nothing until more data comes.
NEED_DATA: Final[Literal[NeedData.NEED_DATA]] = NeedData.NEED_DATA


class Paused(enum.Enum):
    """The type of `PAUSED`."""

    PAUSED = "PAUSED"

    def __repr__(self) -> str:
        return self.name


#: `next_event` holds its input until the adapter acts: the machine's page says how.
PAUSED: Final[Literal[Paused.PAUSED]] = Paused.PAUSED


class Side(enum.Enum):
    """The state of one direction of a machine."""

    OPEN = "open"
    DONE = "done"
    ERROR = "error"


class EndOfData(msgspec.Struct, frozen=True):
    """The peer ended its direction cleanly, between two frames."""
