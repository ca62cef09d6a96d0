"""The WebSocket machine behind another event loop: an echo server on asyncio.

Run as: python asyncio_websocket.py
It prints its port.
"""

import asyncio

from trio_mcp_transport import RemoteProtocolError
from trio_mcp_transport.sansio import NEED_DATA, Side
from trio_mcp_transport.sansio.http import Http1Server, Reply, RequestHead
from trio_mcp_transport.sansio.websocket import TextMessage, WebSocketMachine, judge_upgrade
from trio_mcp_transport.security import Admitted, ConnectionFacts, Doorkeeper

DOORKEEPER = Doorkeeper()  # without it, every web page could talk to this server


async def open_websocket(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> WebSocketMachine | None:
    """The handshake; None where it is refused."""
    http = Http1Server()
    while (head := http.next_event()) is NEED_DATA:
        if data := await reader.read(65536):
            http.receive_data(data)
        else:
            http.receive_eof()
    if not isinstance(head, RequestHead):
        return None
    facts = ConnectionFacts(
        local_address=writer.get_extra_info("sockname"),
        peer_address=writer.get_extra_info("peername"),
    )
    admitted = DOORKEEPER.judge(head, facts)
    verdict = judge_upgrade(head) if isinstance(admitted, Admitted) else admitted.reply
    if isinstance(verdict, Reply):
        writer.write(http.send_response(verdict.head, verdict.body))
        return None
    writer.write(http.switch_protocol("websocket", verdict.headers))
    machine = WebSocketMachine("server")
    machine.receive_data(http.trailing_data[0])  # what came behind the head
    return machine


async def echo(
    machine: WebSocketMachine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send every text back until the client closes."""
    while machine.receiving is Side.OPEN:
        event = machine.next_event()
        if isinstance(event, TextMessage):
            writer.write(machine.send(event))
        writer.write(machine.bytes_to_send())  # a pong, or the answer to a Close
        if event is NEED_DATA:
            await writer.drain()
            if data := await reader.read(65536):
                machine.receive_data(data)
            else:
                machine.receive_eof()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    machine = None
    try:
        machine = await open_websocket(reader, writer)
        if machine is not None:
            await echo(machine, reader, writer)
    except RemoteProtocolError:
        if machine is not None:
            writer.write(machine.bytes_to_send())  # a Close that says what was wrong
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
