"""Content codings of HTTP: what is accepted, and bodies, whole and bit by bit."""

from __future__ import annotations

import gzip

import pytest

from trio_mcp_transport.compression_settings import ALGORITHMS, Algorithm, CompressionSettings
from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio.compression import available_algorithms
from trio_mcp_transport.sansio.compression_choice import CompressionCounter
from trio_mcp_transport.sansio.content_coding import (
    BodyDecoder,
    BodyEncoder,
    accept_encoding,
    coding_of,
    decode_body,
    encode_body,
    read_accept_encoding,
    read_content_encoding,
)

pytestmark = pytest.mark.sansio

SETTINGS = CompressionSettings(algorithms=available_algorithms())
GZIP = CompressionSettings(algorithms=("gzip",))
TEXT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}' * 100
EVENT = b'data: {"jsonrpc":"2.0","method":"notifications/message"}\n\n'


def statistics() -> CompressionCounter:
    return CompressionCounter(lambda: 0.0)


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (None, set()),
        ("", set()),
        ("identity", set()),
        ("gzip", {"gzip"}),
        ("x-gzip", {"gzip"}),
        ("GZIP;Q=0.5, br", {"gzip", "brotli"}),
        ("gzip;q=0, zstd", {"zstd"}),
        ("*", {"gzip", "zstd", "brotli"}),
        ("*;q=0, br;q=0.1", {"brotli"}),
        ("*, zstd;q=0", {"gzip", "brotli"}),
        ("lz4", {"lz4"}),
        ("gzip;q=much", set()),
        ("gzip;level=9", {"gzip"}),
        ("deflate, compress", set()),
    ],
)
def test_accept_encoding_is_read_as_http_says(value: str | None, taken: set[str]) -> None:
    assert read_accept_encoding(value) == taken


def test_what_is_accepted_is_what_is_wanted_and_installed() -> None:
    assert accept_encoding(GZIP) == "gzip"
    assert accept_encoding(CompressionSettings()) == "identity"
    wanted = CompressionSettings(algorithms=ALGORITHMS)
    assert accept_encoding(wanted) == ", ".join(map(coding_of, available_algorithms()))
    assert read_accept_encoding(accept_encoding(SETTINGS)) == {*SETTINGS.algorithms}


@pytest.mark.parametrize("value", [None, "", "identity", " Identity "])
def test_a_body_without_coding_is_one(value: str | None) -> None:
    assert read_content_encoding(value, GZIP.algorithms) is None


def test_a_coding_that_is_not_spoken_is_415_and_says_which_are() -> None:
    for value in ("br", "gzip, gzip", "deflate"):
        with pytest.raises(RemoteProtocolError, match="must be one of: gzip") as caught:
            read_content_encoding(value, GZIP.algorithms)
        assert caught.value.status == 415
    with pytest.raises(RemoteProtocolError, match="must be one of: identity"):
        read_content_encoding("gzip", ())


@pytest.mark.parametrize("algorithm", available_algorithms())
def test_a_body_comes_back_as_it_was(algorithm: Algorithm) -> None:
    counted = statistics()
    body, coding = encode_body(SETTINGS, TEXT, {algorithm}, counted)
    assert coding == coding_of(algorithm)
    assert len(body) < len(TEXT) / 5
    assert read_content_encoding(coding, SETTINGS.algorithms) == algorithm
    assert decode_body(algorithm, body, SETTINGS, len(TEXT)) == TEXT
    assert (counted.bytes_before, counted.bytes_after) == (len(TEXT), len(body))


def test_a_body_that_is_not_worth_it_is_left_alone() -> None:
    for body in (TEXT[:100], b"\0" * 1_000_000):
        counted = statistics()
        bounds = CompressionSettings(algorithms=("gzip",), max_ratio=200)
        assert encode_body(bounds, body, {"gzip"}, counted) == (body, None)
        assert counted.pieces_left == 1
    assert encode_body(GZIP, TEXT, set(), statistics()) == (TEXT, None)


def test_a_body_that_is_too_large_is_413_before_it_is_there() -> None:
    with pytest.raises(RemoteProtocolError, match="more than 1000 bytes") as caught:
        decode_body("gzip", gzip.compress(b"\0" * 10_000_000), GZIP, 1000)
    assert caught.value.status == 413


def test_a_body_that_grows_beyond_measure_is_413() -> None:
    bounds = CompressionSettings(algorithms=("gzip",), max_ratio=10)
    with pytest.raises(RemoteProtocolError, match="more than 10 times") as caught:
        decode_body("gzip", gzip.compress(b"\0" * 10_000_000), bounds, 10**9)
    assert caught.value.status == 413


@pytest.mark.parametrize("algorithm", available_algorithms())
def test_a_body_that_was_cut_off_is_refused(algorithm: Algorithm) -> None:
    body, _ = encode_body(SETTINGS, TEXT, {algorithm}, statistics())
    with pytest.raises(RemoteProtocolError, match=f"{algorithm} was cut off"):
        decode_body(algorithm, body[:-2], SETTINGS, len(TEXT))


@pytest.mark.parametrize("algorithm", available_algorithms())
def test_each_event_of_a_stream_can_be_read_when_it_is_there(algorithm: Algorithm) -> None:
    counted = statistics()
    encoder = BodyEncoder(algorithm, SETTINGS, counted)
    assert encoder.coding == coding_of(algorithm)
    decoder = BodyDecoder(algorithm, SETTINGS)
    for _ in range(3):
        output = decoder.decode(encoder.encode(EVENT))
        while not decoder.needs_input:
            output += decoder.decode(b"")
        assert output == EVENT
    with pytest.raises(RemoteProtocolError, match="cut off"):
        decoder.finish()
    assert decoder.decode(encoder.finish()) == b""
    decoder.finish()
    assert counted.pieces == 3


@pytest.mark.parametrize("algorithm", available_algorithms())
def test_a_stream_that_says_nothing_is_not_taken_for_an_attack_by_our_own_reader(
    algorithm: Algorithm,
) -> None:
    encoder = BodyEncoder(algorithm, SETTINGS, statistics())
    decoder = BodyDecoder(algorithm, SETTINGS)
    blanks = b" " * 1_000_000
    size = 0
    for _ in range(4):
        size += len(decoder.decode(encoder.encode(blanks)))
        while not decoder.needs_input:
            size += len(decoder.decode(b""))
    assert size == 4 * len(blanks)
