"""Whatever bytes come, a WebSocket machine refuses them with a code, and with nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport import RemoteProtocolError
from trio_mcp_transport.sansio import NEED_DATA, EndOfData
from trio_mcp_transport.sansio.websocket import DeflateSettings, WebSocketLimits, WebSocketMachine

LIMITS = WebSocketLimits(max_message_bytes=10_000, max_frame_bytes=1000, max_fragments=8)


def read(machine: WebSocketMachine) -> int | None:
    """Read what there is; the code of the Close that ends it, if one does."""
    try:
        while machine.next_event() not in {NEED_DATA, EndOfData()}:
            machine.bytes_to_send()  # pongs
    except RemoteProtocolError as error:
        return error.close_code
    return None


@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_only_the_documented_error_comes_out(pieces: list[bytes], deflates: bool) -> None:
    machine = WebSocketMachine(
        "server", limits=LIMITS, deflate=DeflateSettings() if deflates else None
    )
    for piece in pieces:
        machine.receive_data(piece)
        if code := read(machine):
            assert code in {1002, 1007, 1008, 1009}
            assert machine.bytes_to_send()[:1] == b"\x88"  # the peer is told, too
            return
    machine.receive_eof()
    assert read(machine) in {1006, None}  # None after a Close of the peer's
