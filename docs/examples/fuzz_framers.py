"""However the bytes of a stream are cut, the same messages come out."""

from hypothesis import given
from hypothesis import strategies as st

from trio_mcp_transport import Framing
from trio_mcp_transport.sansio import NEED_DATA, EndOfData, Frame, make_framer

# Anything in braces: a framer does not look inside, only a line may not hold a line feed.
payload = st.binary().map(lambda data: b"{" + data.replace(b"\n", b" ") + b"}")


@given(
    st.sampled_from(["newline", "content-length", "length-prefix"]), st.lists(payload), st.data()
)
def test_cutting_the_stream_changes_nothing(
    framing: Framing, sent: list[bytes], data: st.DataObject
) -> None:
    sender, receiver = make_framer(framing), make_framer(framing)
    wire = b"".join(sender.send(item) for item in sent)
    received = []
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        receiver.receive_data(wire[:size])
        wire = wire[size:]
        while (event := receiver.next_event()) is not NEED_DATA:
            assert isinstance(event, Frame)
            received.append(event.payload)
    receiver.receive_eof()
    assert received == sent
    assert receiver.next_event() == EndOfData()
