"""The message machine: messages, malformed ones, batches, and unsound streams."""

from __future__ import annotations

import sys

import msgspec
import pytest

from trio_mcp_transport.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from trio_mcp_transport.jsonrpc import Batch, Message, Notification, Request, Response
from trio_mcp_transport.sansio.framing import NewlineFramer
from trio_mcp_transport.sansio.machine import NEED_DATA, EndOfData, Side
from trio_mcp_transport.sansio.messages import MalformedMessage, MessageMachine

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


def machine(limit: int = 1000) -> MessageMachine:
    return MessageMachine(NewlineFramer(max_message_bytes=limit))


def test_two_machines_talk() -> None:
    client, server = machine(), machine()
    server.receive_data(client.send(Request(1, "ping")))
    assert server.next_event() == Request(1, "ping")
    assert server.next_event() is NEED_DATA
    client.receive_data(server.send(Response(1, {})))
    answer = client.next_event()
    assert isinstance(answer, Response)
    client.receive_eof()
    assert client.next_event() == EndOfData()
    assert client.receiving is Side.DONE


def test_a_bad_message_is_an_event_and_the_conversation_goes_on() -> None:
    m = machine()
    m.receive_data(b"log line\n" + PING)
    event = m.next_event()
    assert isinstance(event, MalformedMessage)
    assert event.size == 8
    assert event.error.code == -32700
    assert m.next_event() == Request(1, "ping")


def test_draining_gives_good_and_bad_in_order() -> None:
    m = machine()
    m.receive_data(PING + b"?\n" + PING)
    first, second, third = m.next_events(10)
    assert first == third == Request(1, "ping")
    assert isinstance(second, MalformedMessage)
    assert m.next_events(10) == []


def test_draining_stops_at_its_maximum() -> None:
    m = machine()
    m.receive_data(PING * 3)
    assert len(m.next_events(2)) == 2
    assert len(m.next_events(2)) == 1


def test_a_last_line_without_line_feed_is_delivered_if_it_decodes() -> None:
    m = machine()
    m.receive_data(PING[:-1])
    m.receive_eof()
    assert m.next_event() == Request(1, "ping")
    assert m.next_event() == EndOfData()


def test_a_message_cut_off_by_the_end_is_an_error_for_good() -> None:
    m = machine()
    m.receive_data(PING + PING[:20])
    m.receive_eof()
    assert m.next_events(10) == [Request(1, "ping")]
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="ended inside a message"):
            m.next_event()
        assert m.receiving is Side.ERROR


def test_unsound_framing_raises() -> None:
    m = machine(limit=50)
    m.receive_data(b"x" * 51)
    with pytest.raises(RemoteProtocolError):
        m.next_event()
    assert m.receiving is Side.ERROR
    assert m.sending is Side.OPEN


def test_an_array_is_malformed_until_batches_are_accepted() -> None:
    m = machine()
    array = b'[{"jsonrpc":"2.0","method":"n"}]\n'
    m.receive_data(array)
    event = m.next_event()
    assert isinstance(event, MalformedMessage)
    assert "an array" in str(event.error)
    m.accept_batches = True
    m.receive_data(array + b"[]\n")
    assert m.next_events(10)[0] == Batch((Notification("n"),))
    m.receive_data(b"[]\n" + PING)
    empty = m.next_event()
    assert isinstance(empty, MalformedMessage)
    assert "at least one" in str(empty.error)
    assert m.next_event() == Request(1, "ping")


def test_sending_has_the_framers_limit_and_end() -> None:
    m = machine(limit=40)
    with pytest.raises(MessageTooLarge):
        m.send(Request(1, "x" * 40))
    assert m.send(Request(1, "x"))
    m.send_failed()
    assert m.sending is Side.ERROR
    with pytest.raises(LocalProtocolError):
        m.send(Request(1, "x"))


def test_unread_bytes_are_handed_over() -> None:
    m = machine()
    m.receive_data(PING + b"GET /")
    assert m.next_event() == Request(1, "ping")
    assert m.trailing_data == (b"GET /", False)


@pytest.mark.parametrize("size", [0, 4000], ids=["small", "large"])
def test_many_messages_go_out_as_each_of_them_does(size: int) -> None:
    text = "x" * size
    messages: list[Message] = [
        Request(1, "ping"),
        Notification("note", {"text": text}),
        Response(2, text),
    ]
    m = machine(limit=5000)
    assert m.send_many(messages) == b"".join(map(m.send, messages))
    assert m.send_many(tuple(messages)) == m.send_many(messages)
    assert m.send_many([]) == b""


def test_line_feeds_in_what_is_raw_are_taken_out_of_one_and_of_many() -> None:
    m = machine()
    spaced = Notification("note", msgspec.Raw(b'{\n"x": 1}'))
    line = b'{"jsonrpc":"2.0","method":"note","params":{"x":1}}\n'
    assert m.send(spaced) == line
    assert m.send_many([spaced, Request(1, "ping")]) == line + PING


def test_a_message_of_the_very_limit_goes_out_alone_and_among_others() -> None:
    ping = Request(1, "ping")
    m = machine(limit=len(PING) - 1)
    assert m.send(ping) == PING
    assert m.send_many([ping, ping]) == PING * 2
    too_small = machine(limit=len(PING) - 2)
    for send in (too_small.send, lambda message: too_small.send_many([message, message])):
        with pytest.raises(MessageTooLarge):
            send(ping)


def test_what_is_no_message_is_refused_among_messages() -> None:
    with pytest.raises(TypeError, match="not a message: dict"):
        machine().send_many([Request(1, "ping"), {"jsonrpc": "2.0"}])  # type: ignore[list-item]


@pytest.mark.parametrize("count", [1, 3])
def test_sending_keeps_no_memory(count: int) -> None:
    # msgspec's own encoding of lines does, unless it is given a list.
    m = machine()
    messages = (Request(1, "ping"),) * count
    before = 0
    for number in range(1100):
        if number == 100:
            before = sys.getallocatedblocks()
        m.send_many(messages)
        m.send(messages[0])
    assert sys.getallocatedblocks() - before < 500
