"""TLS: what is sent arrives, whatever the cut; garbage and disorder harm nobody."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trio_mcp_transport.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    TlsHandshakeFailed,
)
from trio_mcp_transport.sansio import NEED_DATA, EndOfData

pytest.importorskip("OpenSSL")

from tls_files import TlsFiles
from tls_sides import events_of, machines, shaken

from trio_mcp_transport.sansio.tls import TlsData, TlsMachine

pytestmark = [pytest.mark.tls, pytest.mark.properties]

# A handshake for each example: half a millisecond, on curves.
few = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
versions = st.sampled_from(["1.2", "1.3"])
messages = st.lists(st.binary(min_size=1, max_size=300) | st.just(b"x" * 20_000), max_size=8)


def pieces_of(data: bytes, cuts: list[int]) -> list[bytes]:
    points = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(points)]


@few
@given(version=versions, sent=messages, closed=st.booleans(), cuts=st.lists(st.integers(0, 10**6)))
def test_what_is_sent_arrives_however_it_is_cut(
    tls_files: TlsFiles, version: str, sent: list[bytes], closed: bool, cuts: list[int]
) -> None:
    client, server = shaken(tls_files, version)
    ciphertext = b"".join(map(client.send_data, sent))
    if closed:
        ciphertext += client.send_close()
    events = []
    for piece in pieces_of(ciphertext, cuts):
        server.receive_data(piece)
        events += [event for event in events_of(server) if event != EndOfData()]
    assert b"".join(event.data for event in events if isinstance(event, TlsData)) == b"".join(sent)
    server.receive_eof()
    if closed:
        assert server.next_event() == EndOfData()
    else:
        with pytest.raises(RemoteProtocolError, match="without close_notify"):
            server.next_event()


@few
@given(
    version=versions,
    at=st.integers(0, 10**6),
    change=st.integers(1, 255),
    cuts=st.lists(st.integers(0, 10**6), max_size=5),
)
def test_a_changed_byte_never_changes_what_arrives(
    tls_files: TlsFiles, version: str, at: int, change: int, cuts: list[int]
) -> None:
    client, server = shaken(tls_files, version)
    ciphertext = bytearray(client.send_data(b"one") + client.send_data(b"two"))
    ciphertext[at % len(ciphertext)] ^= change
    received: list[object] = []

    def receive() -> None:
        for piece in pieces_of(bytes(ciphertext), cuts):
            server.receive_data(piece)
            while (event := server.next_event()) is not NEED_DATA:
                received.append(event)
        server.receive_eof()
        server.next_event()

    with pytest.raises(RemoteProtocolError):
        receive()
    assert received in ([], [TlsData(b"one")])


@few
@given(is_server=st.booleans(), garbage=st.binary(max_size=200), begins_like_tls=st.booleans())
def test_garbage_in_place_of_a_handshake_only_fails_it(
    tls_files: TlsFiles, is_server: bool, garbage: bytes, begins_like_tls: bool
) -> None:
    machine = machines(tls_files)[is_server]
    assert machine.next_event() is NEED_DATA
    machine.bytes_to_send()
    if begins_like_tls:
        garbage = b"\x16\x03\x01" + len(garbage).to_bytes(2, "big") + garbage
    machine.receive_data(garbage)
    machine.receive_eof()
    with pytest.raises(TlsHandshakeFailed):
        events_of(machine)
    machine.bytes_to_send()
    with pytest.raises(TlsHandshakeFailed):
        machine.next_event()


class Side:
    """A machine and what it is asked to do; what it writes reaches the other side."""

    def __init__(self, machine: TlsMachine) -> None:
        self.machine = machine
        self.has_eof = False
        self.is_broken = False

    def take(self, data: bytes) -> None:
        if not self.has_eof:
            self.machine.receive_data(data)

    def act(self, name: str, other: Side) -> None:
        machine = self.machine
        if name == "next":
            machine.next_event()
            other.take(machine.bytes_to_send())
        elif name == "data":
            other.take(machine.send_data(b"data"))
        elif name == "close":
            other.take(machine.send_close())
        elif name == "eof":
            self.has_eof = True
            machine.receive_eof()
        else:
            machine.send_failed()


@few
@given(
    version=versions,
    acts=st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(["next", "next", "data", "data", "close", "eof", "failed"]),
        ),
        max_size=30,
    ),
    begun=st.booleans(),
)
def test_any_order_of_calls_raises_only_what_is_documented(
    tls_files: TlsFiles, version: str, acts: list[tuple[bool, str]], begun: bool
) -> None:
    sides = list(map(Side, (shaken if begun else machines)(tls_files, version)))
    for is_server, name in acts:
        side = sides[is_server]
        try:
            side.act(name, sides[not is_server])
        except (RemoteProtocolError, TlsHandshakeFailed):
            assert name == "next"
            side.is_broken = True
        except LocalProtocolError:
            assert name in {"data", "close"}
        else:
            assert name != "next" or not side.is_broken  # a fault is final
