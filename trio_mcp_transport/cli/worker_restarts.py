"""How long to wait before a worker that has ended is replaced. Pure: no clock, no chance.

Used by `workers`, with one `Restarts` for each place that a worker may have.
"""

from __future__ import annotations

from collections.abc import Callable

from ..restart import RestartPolicy

__all__ = ["WORKER_POLICY", "Restarts"]

#: A worker that dies of a request is there again at once; one that cannot live is started
#: twice a minute at most.
WORKER_POLICY = RestartPolicy(
    max_restarts=float("inf"), initial_delay=0.2, max_delay=30.0, steady_after=60.0
)


class Restarts:
    """The ends of the workers of one place.

    Args:
        uniform: ``uniform(low, high)`` gives any number between them: workers that died
            together shall not come back together.
        policy: How the delays grow, and when an end is no failure of a start.

    Attributes:
        in_a_row: How many ended before their time since one did not.
    """

    def __init__(
        self, uniform: Callable[[float, float], float], policy: RestartPolicy = WORKER_POLICY
    ) -> None:
        self.in_a_row = 0
        self._uniform = uniform
        self._policy = policy

    def ended(self, lived: float) -> float:
        """A worker ended; the seconds to wait before the next one is started.

        Args:
            lived: Seconds that it was ready for; 0 if it never was.
        """
        if lived >= self._policy.steady_after:
            self.in_a_row = 0
        delay = self._policy.delay(self.in_a_row)
        if delay is None:
            delay = self._policy.max_delay
        self.in_a_row += 1
        return self._uniform(delay / 2, delay)
