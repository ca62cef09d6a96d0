"""All checks together, and running them without a test runner.

Every transport of this package passes them, and a transport made elsewhere should. Each
check is an async function with a sentence for a name.
"""

from __future__ import annotations

import trio

from .closing import CLOSING_CHECKS
from .facts import FACTS_CHECKS
from .receiving import RECEIVING_CHECKS
from .sending import SENDING_CHECKS
from .support import CHECK_SECONDS, Check, MakePair

__all__ = ["CONTRACT_CHECKS", "check_channel_contract"]

#: All checks, each independent of the others. With pytest::
#:
#:     @pytest.mark.parametrize("check", CONTRACT_CHECKS, ids=lambda check: check.__name__)
#:     async def test_contract(check):
#:         await check(make_pair)
CONTRACT_CHECKS: tuple[Check, ...] = (
    *SENDING_CHECKS,
    *RECEIVING_CHECKS,
    *CLOSING_CHECKS,
    *FACTS_CHECKS,
)


async def check_channel_contract(make_pair: MakePair) -> None:
    """Run every check, one after another.

    The checks use the operating system's time where bytes must pass through it (20 ms
    each), so they run on a real clock; on a mock clock everything must stay inside Trio.

    Args:
        make_pair: Called with the `ChannelOptions` that both channels shall have, perhaps
            several times at once. Returns an async context manager that yields the two
            channels, connected to each other, lets the block's exception out as it is, and
            closes both.

    Raises:
        AssertionError: A check failed; a note on it tells which.
        trio.TooSlowError: A check hung, likewise.
    """
    for check in CONTRACT_CHECKS:
        try:
            with trio.fail_after(CHECK_SECONDS):
                await check(make_pair)
        except Exception as error:
            error.add_note(f"while checking: {check.__name__}")
            raise
