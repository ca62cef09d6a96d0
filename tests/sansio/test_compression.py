"""Compressors and decompressors: round trips, bounds, cut and broken input."""

from __future__ import annotations

import gzip
import itertools
import os
import resource
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.compression_settings import ALGORITHMS, Algorithm
from trio_mcp_transport.errors import (
    FeatureUnavailable,
    LocalProtocolError,
    RemoteProtocolError,
)
from trio_mcp_transport.sansio.compression import (
    Decompressor,
    available_algorithms,
    make_compressor,
    make_decompressor,
)

pytestmark = pytest.mark.sansio

AVAILABLE = available_algorithms()
every_algorithm = pytest.mark.parametrize("algorithm", AVAILABLE)
STEP = 16 * 1024
TEXT = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}\n' * 40


def compressed(algorithm: Algorithm, *parts: bytes) -> bytes:
    engine = make_compressor(algorithm)
    done = [engine.compress(part) + engine.flush() for part in parts]
    return b"".join(done) + engine.finish()


def take(engine: Decompressor, data: bytes, step: int = STEP) -> bytes:
    """Everything that the data is good for, in steps."""
    output = [engine.decompress(data, step)]
    while not engine.needs_input:
        output.append(engine.decompress(b"", step))
    assert all(len(part) <= step for part in output)
    return b"".join(output)


@every_algorithm
def test_what_was_compressed_comes_back(algorithm: Algorithm) -> None:
    engine = make_decompressor(algorithm)
    assert take(engine, compressed(algorithm, TEXT)) == TEXT
    assert engine.is_finished


@every_algorithm
@given(
    parts=st.lists(st.binary(max_size=300) | st.integers(0, 2000).map(bytes), max_size=6),
    step=st.integers(1, 500),
)
def test_what_is_flushed_can_be_read_before_more_comes(
    algorithm: Algorithm, parts: list[bytes], step: int
) -> None:
    compressor, engine = make_compressor(algorithm, 3), make_decompressor(algorithm)
    for part in parts:
        data = compressor.compress(part) + compressor.flush()
        assert take(engine, data, step) == part
        assert not engine.is_finished
    assert take(engine, compressor.finish(), step) == b""
    assert engine.is_finished


@every_algorithm
@given(data=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=5))
def test_how_the_bytes_are_cut_makes_no_difference(
    algorithm: Algorithm, data: bytes, cuts: list[int]
) -> None:
    wire = compressed(algorithm, data)
    engine = make_decompressor(algorithm)
    marks = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    pieces = [wire[start:end] for start, end in itertools.pairwise(marks)]
    assert b"".join(take(engine, piece) for piece in pieces) == data
    assert engine.is_finished


@every_algorithm
def test_a_byte_at_a_time_is_enough(algorithm: Algorithm) -> None:
    wire = compressed(algorithm, TEXT, TEXT)
    engine = make_decompressor(algorithm)
    assert b"".join(take(engine, wire[at : at + 1]) for at in range(len(wire))) == TEXT * 2


@every_algorithm
@pytest.mark.parametrize("level", [0, 6, 11])
def test_every_level_makes_something_smaller(algorithm: Algorithm, level: int) -> None:
    engine = make_compressor(algorithm, level)
    wire = engine.compress(TEXT) + engine.finish()
    assert len(wire) < len(TEXT) / 4
    assert take(make_decompressor(algorithm), wire) == TEXT


@every_algorithm
def test_what_is_cut_off_is_not_finished(algorithm: Algorithm) -> None:
    wire = compressed(algorithm, TEXT)
    for end in range(len(wire)):
        engine = make_decompressor(algorithm)
        take(engine, wire[:end])
        assert not engine.is_finished, end


@every_algorithm
@given(data=st.data())
def test_broken_bytes_are_refused_or_give_something_bounded(
    algorithm: Algorithm, data: st.DataObject
) -> None:
    wire = bytearray(compressed(algorithm, TEXT))
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    engine = make_decompressor(algorithm)
    with suppress(RemoteProtocolError):
        assert len(take(engine, bytes(wire))) <= 2**22


@every_algorithm
def test_what_is_something_else_is_refused_by_name(algorithm: Algorithm) -> None:
    engine = make_decompressor(algorithm)
    with pytest.raises(RemoteProtocolError, match=f"this is not what {algorithm} makes"):
        take(engine, b'{"jsonrpc":"2.0","id":1,"method":"ping"}' * 20)


@every_algorithm
def test_nothing_may_follow_the_end_but_what_the_format_allows(algorithm: Algorithm) -> None:
    wire = compressed(algorithm, TEXT)
    engine = make_decompressor(algorithm)
    with pytest.raises(RemoteProtocolError, match=algorithm):
        take(engine, wire + b"GET / HTTP/1.1\r\n" * 4)


@pytest.mark.parametrize("algorithm", sorted({"brotli", "lz4"} & {*AVAILABLE}))
def test_nothing_may_come_later_than_the_end(algorithm: Algorithm) -> None:
    engine = make_decompressor(algorithm)
    take(engine, compressed(algorithm, TEXT))
    assert engine.decompress(b"", 10) == b""
    with pytest.raises(RemoteProtocolError, match="behind the end"):
        engine.decompress(b"x", 10)


@pytest.mark.parametrize("algorithm", sorted({"gzip", "zstd"} & {*AVAILABLE}))
def test_several_members_follow_each_other(algorithm: Algorithm) -> None:
    engine = make_decompressor(algorithm)
    wire = compressed(algorithm, TEXT) + compressed(algorithm, b"again")
    assert take(engine, wire) == TEXT + b"again"
    assert engine.is_finished
    assert take(engine, compressed(algorithm, b"later")) == b"later"
    assert engine.is_finished


def test_gzip_is_what_others_read_and_write() -> None:
    assert gzip.decompress(compressed("gzip", TEXT)) == TEXT
    assert take(make_decompressor("gzip"), gzip.compress(TEXT)) == TEXT


@every_algorithm
def test_data_is_not_given_while_there_is_more_to_take(algorithm: Algorithm) -> None:
    engine = make_decompressor(algorithm)
    engine.decompress(compressed(algorithm, TEXT), 10)
    assert not engine.needs_input
    with pytest.raises(LocalProtocolError, match="more to take"):
        engine.decompress(b"x", 10)


@every_algorithm
def test_the_bytes_are_counted(algorithm: Algorithm) -> None:
    engine = make_decompressor(algorithm)
    wire = compressed(algorithm, TEXT)
    take(engine, wire)
    assert (engine.bytes_in, engine.bytes_out) == (len(wire), len(TEXT))


# -- bombs ---------------------------------------------------------------------------


@every_algorithm
def test_a_bomb_of_256_megabytes_never_takes_more_than_a_few(algorithm: Algorithm) -> None:
    compressor = make_compressor(algorithm, 1)
    block = bytes(1024 * 1024)
    wire = b"".join([compressor.compress(block) for _ in range(256)]) + compressor.finish()
    engine = make_decompressor(algorithm)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        size = len(engine.decompress(wire, STEP))
        while not engine.needs_input:
            size += len(engine.decompress(b"", STEP))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 256 * 1024 * 1024
    assert engine.is_finished
    # The libraries' own memory is the process's, the bytes that they give are Python's.
    assert peak < len(wire) * 3 + 2 * 1024 * 1024
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 * 1024


@pytest.mark.skipif("zstd" not in AVAILABLE, reason="zstandard is not installed")
def test_a_zstd_frame_that_wants_a_huge_window_is_refused() -> None:
    # Magic number, no single segment, and the window: 8 MiB, or the next one that can be
    # written (RFC 8878, section 3.1.1.1.2).
    head, end = b"\x28\xb5\x2f\xfd\x00", b"\x01\x00\x00"
    assert take(make_decompressor("zstd"), head + bytes([13 << 3]) + end) == b""
    with pytest.raises(RemoteProtocolError, match="zstd"):
        take(make_decompressor("zstd"), head + bytes([13 << 3 | 1]) + end)


@pytest.mark.skipif("zstd" not in AVAILABLE, reason="zstandard is not installed")
def test_a_zstd_block_that_claims_too_much_is_refused_before_it_comes() -> None:
    head = b"\x28\xb5\x2f\xfd" + bytes([0x00, 10 << 3])
    claim = ((1 << 20) << 3).to_bytes(3, "little")
    with pytest.raises(RemoteProtocolError, match="zstd"):
        take(make_decompressor("zstd"), head + claim)


@pytest.mark.skipif("zstd" not in AVAILABLE, reason="zstandard is not installed")
def test_zstd_frames_with_checksums_and_sizes_are_read_as_well() -> None:
    import zstandard

    for checksum in (True, False):
        engine = make_decompressor("zstd")
        library = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=True)
        wire = library.compress(os.urandom(70_000))
        assert len(b"".join(take(engine, wire[at : at + 7]) for at in range(0, len(wire), 7)))
        assert engine.is_finished


EMPTY = {
    # As many members, blocks or frames as fit, of which nothing comes.
    "gzip": gzip.compress(b""),
    "zstd": b"\x00\x00\x00",
}


@pytest.mark.parametrize("algorithm", sorted({*EMPTY} & {*AVAILABLE}))
def test_parts_of_which_nothing_comes_take_no_more_than_their_bytes(algorithm: Algorithm) -> None:
    count = 2000 if algorithm == "gzip" else 50_000
    head = b"" if algorithm == "gzip" else b"\x28\xb5\x2f\xfd" + bytes([0x00, 10 << 3])
    wire = head + EMPTY[algorithm] * count
    engine = make_decompressor(algorithm)
    tracemalloc.start()
    try:
        assert take(engine, wire) == b""
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(wire) + 256 * 1024


def test_what_is_left_behind_a_member_is_not_copied_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[int] = []
    make = zlib.decompressobj

    class Counting:
        def __init__(self, format_: int) -> None:
            self._engine = make(format_)

        def decompress(self, data: bytes, limit: int) -> bytes:
            given.append(len(data))
            return self._engine.decompress(data, limit)

        def __getattr__(self, name: str) -> object:
            return getattr(self._engine, name)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    wire = gzip.compress(b"") * 1000
    assert take(make_decompressor("gzip"), wire) == b""
    assert max(given) <= 4096
    assert sum(given) < 200 * len(wire)


# -- what is not installed ---------------------------------------------------------------


def test_gzip_is_always_there() -> None:
    assert "gzip" in AVAILABLE
    assert [name for name in ALGORITHMS if name in AVAILABLE] == [*AVAILABLE]


@pytest.mark.parametrize(("algorithm", "module"), [("zstd", "zstandard"), ("brotli", "brotli")])
def test_a_missing_library_says_what_to_install(
    algorithm: Algorithm, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for make in (make_compressor, make_decompressor):
        with pytest.raises(FeatureUnavailable, match=r"pip install .*\[compression\]"):
            make(algorithm)


def test_importing_it_loads_no_library() -> None:
    code = (
        "import sys, trio_mcp_transport.sansio.compression;"
        "sys.exit(bool({'zstandard', 'brotli', 'lz4'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
