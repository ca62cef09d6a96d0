"""What several tests of the machines share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from http1_engines import INSTALLED, using


@pytest.fixture(params=INSTALLED)
def http1_engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once with each engine of HTTP/1.1 that is installed."""
    with using(request.param):
        yield request.param
