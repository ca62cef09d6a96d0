"""Compressed streams: the hello, records, their bounds, and peers that do not keep to it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport.compression_settings import Algorithm, CompressionSettings
from trio_mcp_transport.errors import RemoteProtocolError
from trio_mcp_transport.sansio.compressed_records import RecordReader, RecordWriter, hello
from trio_mcp_transport.sansio.compression import available_algorithms, make_compressor

pytestmark = pytest.mark.sansio

SETTINGS = CompressionSettings(algorithms=available_algorithms(), min_size=20)
GZIP = CompressionSettings(algorithms=("gzip",), min_size=20)
TEXT = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}\n' * 50


def clock() -> float:
    return 0.0


def writer(settings: CompressionSettings = SETTINGS, *, agreed: bool = True) -> RecordWriter:
    made = RecordWriter(settings, clock)
    if agreed:
        made.accepted = settings.algorithms
    return made


def reader(settings: CompressionSettings = SETTINGS, *, optional: bool = False) -> RecordReader:
    return RecordReader(settings, clock, optional=optional)


def read_all(records: RecordReader) -> bytes:
    parts = []
    while part := records.read():
        parts.append(part)
    return b"".join(parts)


def after_hello(settings: CompressionSettings = SETTINGS) -> RecordReader:
    records = reader(settings)
    records.feed(hello(settings.algorithms))
    assert records.read() == b""
    return records


def record(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(4, "big") + body


@given(
    sizes=st.lists(st.integers(0, 200) | st.sampled_from([5000, 100_000]), max_size=5),
    cuts=st.lists(st.integers(0, 3000), max_size=5),
)
def test_what_is_written_comes_out_however_it_is_cut(sizes: list[int], cuts: list[int]) -> None:
    records = writer()
    bursts = [(TEXT * 50)[:size] for size in sizes]
    wire = hello(SETTINGS.algorithms) + b"".join([records.write(burst) for burst in bursts])
    marks = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    target = reader()
    output = b""
    for start, end in pairwise(marks):
        target.feed(wire[start:end])
        output += read_all(target)
    assert output == b"".join(bursts)
    assert target.is_between_records


def test_each_burst_can_be_read_at_once_and_gains_from_those_before() -> None:
    records, target = writer(GZIP), after_hello(GZIP)
    sizes = []
    for _ in range(3):
        wire = records.write(TEXT)
        sizes.append(len(wire))
        target.feed(wire)
        assert read_all(target) == TEXT
    assert sizes[1] < sizes[0] / 2


def test_a_byte_at_a_time_is_enough() -> None:
    wire = writer(GZIP).write(b"small") + writer(GZIP).write(TEXT)
    target = after_hello(GZIP)
    output = b""
    for at in range(len(wire)):
        target.feed(wire[at : at + 1])
        output += target.read()
    assert output == b"small" + TEXT


def test_nothing_is_compressed_before_the_peers_hello() -> None:
    records = writer(agreed=False)
    assert records.write(TEXT) == record(0, TEXT)
    assert records.counter.pieces_left == 1


def test_a_hello_tells_what_can_be_decompressed() -> None:
    target = reader(GZIP)
    wire = hello(("gzip", "zstd"))
    may_end = [target.is_between_records]
    for at in range(len(wire)):
        assert not target.agree()
        target.feed(wire[at : at + 1])
        may_end.append(target.is_between_records)
        assert target.read() == b""
    assert not any(may_end[1:])
    assert target.agree()
    assert target.peer_accepts == ("gzip", "zstd")
    assert may_end[0]
    assert target.is_between_records


def test_names_of_later_versions_are_passed_over() -> None:
    target = reader(GZIP)
    target.feed(b"\x8fMCZ\x01\x09gzip,next" + record(0, b"x"))
    assert target.read() == b"x"
    assert target.peer_accepts == ("gzip",)


def test_a_peer_without_compression_is_understood_where_that_is_allowed() -> None:
    target = reader(optional=True)
    target.feed(b"{}\n")
    assert target.read() == b"{}\n"
    assert target.is_plain
    assert target.is_between_records
    target.feed(b"more")
    assert target.read() == b"more"


@pytest.mark.parametrize("first", [b"{", b"\x8fMCX", b"\x8fMCZ\x02"])
def test_a_peer_that_speaks_something_else_is_told_apart(first: bytes) -> None:
    target = reader()
    target.feed(first)
    with pytest.raises(RemoteProtocolError, match="does not speak this compression"):
        target.read()


def test_half_a_hello_is_no_plain_text() -> None:
    target = reader(optional=True)
    target.feed(b"\x8fMCx")
    with pytest.raises(RemoteProtocolError, match="does not speak this compression"):
        target.read()


def test_a_record_that_was_not_agreed_on_is_refused_at_its_first_byte() -> None:
    for kind in (2, 9):
        target = after_hello(GZIP)
        target.feed(bytes([kind]))
        with pytest.raises(RemoteProtocolError, match=f"kind {kind}"):
            target.read()


def test_a_record_that_claims_too_much_is_refused_before_it_comes() -> None:
    target = after_hello()
    target.feed(b"\x00" + (2**32 - 1).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match="a record of 4294967295 bytes"):
        target.read()


def test_a_record_of_which_too_much_comes_is_refused() -> None:
    engine = make_compressor("gzip")
    target = after_hello(GZIP)
    target.feed(record(1, engine.compress(bytes(70_000)) + engine.flush()))
    with pytest.raises(RemoteProtocolError, match="more than 65536 bytes"):
        target.read()


def test_many_records_that_grow_beyond_measure_are_refused() -> None:
    bounds = CompressionSettings(algorithms=("gzip",), max_ratio=20, max_free_bytes=100_000)
    target = after_hello(bounds)
    engine = make_compressor("gzip")
    target.feed(record(1, engine.compress(bytes(60_000)) + engine.flush()))
    assert len(target.read()) == 60_000
    target.feed(record(1, engine.compress(bytes(60_000)) + engine.flush()))
    with pytest.raises(RemoteProtocolError, match="compressed bytes became 120000"):
        target.read()


def test_broken_records_are_refused() -> None:
    target = after_hello(GZIP)
    target.feed(record(1, b"no gzip"))
    with pytest.raises(RemoteProtocolError, match="not what gzip makes"):
        target.read()


def test_what_says_nothing_is_not_taken_for_an_attack_by_our_own_reader() -> None:
    strict = CompressionSettings(algorithms=("gzip",), max_ratio=100)
    records, target = writer(strict), after_hello(strict)
    for _ in range(100):
        target.feed(records.write(bytes(65536)))
        assert read_all(target) == bytes(65536)
    assert 0 < records.counter.pieces_left < 20


def test_a_run_that_ends_is_refused() -> None:
    engine = make_compressor("gzip")
    target = after_hello(GZIP)
    target.feed(record(1, engine.compress(b"x") + engine.finish()))
    with pytest.raises(RemoteProtocolError, match="ends in the middle of the stream"):
        target.read()


def test_records_without_bytes_are_passed_over() -> None:
    target = after_hello(GZIP)
    target.feed(record(0, b"") * 3 + record(0, b"x"))
    assert target.read() == b"x"


def test_half_a_record_is_cut_off() -> None:
    target = after_hello()
    target.feed(record(0, b"abc")[:-1])
    assert target.read() == b""
    assert not target.is_between_records


@pytest.mark.parametrize("algorithm", available_algorithms())
@pytest.mark.parametrize("size", [30_000, 32_768, 65_535, 65_536, 65_537, 120_000])
def test_all_of_a_burst_comes_out_at_once(algorithm: Algorithm, size: int) -> None:
    settings = CompressionSettings(algorithms=(algorithm,))
    records, target = writer(settings), after_hello(settings)
    burst = (b"tools " * size)[:size]
    for _ in range(3):
        target.feed(records.write(burst))
        assert read_all(target) == burst


def test_large_bursts_become_records_of_64_kilobytes() -> None:
    noise = random.Random(2).randbytes(200_000)
    records, target = writer(), after_hello()
    target.feed(records.write(noise))
    sizes = []
    while part := target.read():
        sizes.append(len(part))
    assert sizes == [65536, 65536, 65536, 200_000 - 3 * 65536]


def test_both_directions_are_counted() -> None:
    records, target = writer(GZIP), after_hello(GZIP)
    target.feed(records.write(TEXT) + records.write(b"small"))
    read_all(target)
    assert records.counter.bytes_before == target.counter.bytes_before == len(TEXT) + 5
    assert records.counter.bytes_after == target.counter.bytes_after
    assert records.counter.pieces == target.counter.pieces == 1
