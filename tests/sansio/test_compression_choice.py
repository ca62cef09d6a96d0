"""When something is compressed, with what, and what is refused."""

from __future__ import annotations

import base64
import random

import pytest

from trio_mcp_transport.compression_settings import Algorithm, CompressionSettings
from trio_mcp_transport.errors import ConfigurationError, RemoteProtocolError
from trio_mcp_transport.sansio.compression_choice import (
    Choice,
    CompressionCounter,
    RatioGuard,
    choose,
    looks_incompressible,
)

pytestmark = pytest.mark.sansio

ALL = CompressionSettings(algorithms=("brotli", "zstd", "gzip", "lz4"))
EVERY = ("brotli", "zstd", "gzip", "lz4")
TEXT = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}\n' * 20_000
NOISE = random.Random(1).randbytes(200_000)


def test_what_is_small_is_left_alone() -> None:
    assert choose(ALL, TEXT[:1023], EVERY) is None
    assert choose(ALL, TEXT[:1024], EVERY) == Choice("brotli", 6)


def test_what_is_large_gets_an_algorithm_that_is_fast_at_a_fast_level() -> None:
    assert choose(ALL, TEXT[: 64 * 1024 - 1], EVERY) == Choice("brotli", 6)
    assert choose(ALL, TEXT[: 64 * 1024], EVERY) == Choice("zstd", 3)


def test_only_what_the_peer_takes_is_used() -> None:
    assert choose(ALL, TEXT, ("gzip",)) == Choice("gzip", 3)
    assert choose(ALL, TEXT[:5000], ("lz4", "gzip")) == Choice("gzip", 6)
    assert choose(ALL, TEXT, ("deflate",)) is None
    assert choose(CompressionSettings(), TEXT, EVERY) is None


def test_a_level_that_is_lower_already_stays() -> None:
    settings = CompressionSettings(algorithms=("zstd",), level=1)
    assert choose(settings, TEXT, EVERY) == Choice("zstd", 1)


@pytest.mark.parametrize("size", [1024, 2000, 100_000])
def test_what_a_sample_shows_to_be_incompressible_is_left_alone(size: int) -> None:
    assert looks_incompressible(NOISE[:size])
    assert choose(ALL, NOISE[:size], EVERY) is None


def test_base64_and_text_are_worth_it() -> None:
    assert not looks_incompressible(base64.b64encode(NOISE))
    assert not looks_incompressible(memoryview(TEXT))


def test_a_text_in_the_middle_is_seen() -> None:
    assert not looks_incompressible(NOISE[:2000] + TEXT[:4000] + NOISE[:2000])


def test_statistics_count_what_was_compressed_and_what_was_not() -> None:
    now = iter([1.0, 1.5, 2.0])
    counter = CompressionCounter(lambda: next(now))
    assert counter.statistics().ratio == pytest.approx(1.0)
    counter.start()
    counter.done(1000, 100, compressed=True)
    counter.start()
    counter.done(100, 100, compressed=False)
    statistics = counter.statistics()
    assert (statistics.bytes_before, statistics.bytes_after) == (1100, 200)
    assert (statistics.pieces, statistics.pieces_left) == (1, 1)
    assert statistics.seconds == pytest.approx(0.5)
    assert statistics.ratio == pytest.approx(5.5)


def test_what_grows_beyond_measure_is_refused() -> None:
    guard = RatioGuard(CompressionSettings(max_ratio=10, max_free_bytes=1000))
    guard.check(1, 1000)
    guard.check(200, 2000)
    with pytest.raises(RemoteProtocolError, match="100 compressed bytes became 1001") as caught:
        guard.check(100, 1001)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("algorithms", ("zip",)),
        ("algorithms", ("gzip", "gzip")),
        ("level", 12),
        ("level", -1),
        ("min_size", -1),
        ("streaming_threshold", -1),
        ("max_free_bytes", -1),
        ("max_ratio", 0),
        ("max_ratio", 1.5),
    ],
)
def test_settings_that_make_no_sense_are_named(field: str, value: object) -> None:
    word = "compression" if field == "algorithms" else field
    with pytest.raises(ConfigurationError, match=word):
        CompressionSettings(**{field: value})  # type: ignore[arg-type]  # that is what is tested


def test_names_are_those_of_the_settings() -> None:
    name: Algorithm = "zstd"
    assert CompressionSettings(algorithms=(name,)).algorithms == ("zstd",)
