"""Single messages: compressed where it is worth it, within bounds on the way back."""

from __future__ import annotations

import gzip
import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.compression_settings import Algorithm, CompressionSettings
from trio_mcp_transport.errors import FeatureUnavailable, RemoteProtocolError
from trio_mcp_transport.sansio.compression import available_algorithms
from trio_mcp_transport.sansio.message_compression import CompressedMessage, MessageCompressor

pytestmark = pytest.mark.sansio

TEXT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}' * 100
NOISE = random.Random(3).randbytes(5000)
needs_lz4 = pytest.mark.skipif("lz4" not in available_algorithms(), reason="no lz4")
LZ4 = CompressionSettings(algorithms=("lz4",), min_size=1)


@pytest.mark.parametrize("algorithm", available_algorithms())
def test_a_message_comes_back_as_it_was(algorithm: Algorithm) -> None:
    compressor = MessageCompressor(CompressionSettings(algorithms=(algorithm,)))
    message = compressor.compress(TEXT)
    assert message.encoding == algorithm
    assert len(message.data) < len(TEXT) / 5
    assert compressor.decompress(message, len(TEXT)) == TEXT
    assert compressor.statistics().ratio > 5


def test_what_is_not_worth_it_travels_as_it_is() -> None:
    compressor = MessageCompressor(CompressionSettings(algorithms=("gzip",)))
    for data in (b"small", NOISE):
        message = compressor.compress(data)
        assert message == CompressedMessage(data, None)
        assert compressor.decompress(message, len(data)) == data
        with pytest.raises(RemoteProtocolError, match="more than 4 bytes"):
            compressor.decompress(message, 4)
    assert compressor.compress(TEXT, accepted=()).encoding is None
    assert compressor.statistics().pieces_left == 3


def test_what_grows_travels_as_it_is() -> None:
    compressor = MessageCompressor(CompressionSettings(algorithms=("gzip",), min_size=1))
    assert compressor.compress(b"aaaaaaaaaaaaaaaa").encoding is None


@pytest.mark.parametrize("algorithm", available_algorithms())
def test_what_says_nothing_comes_back_as_well(algorithm: Algorithm) -> None:
    compressor = MessageCompressor(CompressionSettings(algorithms=(algorithm,)))
    for size in (100_000, 4_000_000):
        blanks = b" " * size
        assert compressor.decompress(compressor.compress(blanks), size) == blanks


def test_a_message_that_is_too_large_is_refused_on_the_way() -> None:
    compressor = MessageCompressor(CompressionSettings(algorithms=("gzip",)))
    message = CompressedMessage(gzip.compress(bytes(10_000_000)), "gzip")
    with pytest.raises(RemoteProtocolError, match="more than 1000 bytes"):
        compressor.decompress(message, 1000)


@needs_lz4
@given(data=st.binary(min_size=1, max_size=500), times=st.integers(1, 20))
def test_lz4_has_a_block_format_on_request(data: bytes, times: int) -> None:
    compressor = MessageCompressor(LZ4, lz4_block=True)
    message = compressor.compress(data * times)
    if message.encoding is not None:
        assert message.encoding == "lz4-block"
        assert int.from_bytes(message.data[:4], "little") == len(data) * times
    assert compressor.decompress(message, 10_000) == data * times


@needs_lz4
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "cut off"),
        (b"\1\0\0\0", "cut off"),
        (b"\xff\xff\xff\xff" + b"x", "claims 4294967295 bytes"),
        (b"\x10\0\0\0" + b"\xff\xff", "not what lz4 makes"),
        (b"\x10\0\0\0" + b"\x10a", "not as large as it claims"),
    ],
)
def test_a_block_that_lies_is_refused(data: bytes, error: str) -> None:
    with pytest.raises(RemoteProtocolError, match=error):
        MessageCompressor(LZ4).decompress(CompressedMessage(data, "lz4-block"), 1000)


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4", None)
    with pytest.raises(FeatureUnavailable, match=r"\[compression\]"):
        MessageCompressor(LZ4, lz4_block=True).compress(TEXT)
