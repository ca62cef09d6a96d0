"""The message machine behind another event loop: an echo server on asyncio."""

import asyncio

from trio_mcp_transport import ErrorCode, ErrorObject, ErrorResponse, Request, Response
from trio_mcp_transport.sansio import NEED_DATA, EndOfData, MessageMachine, NewlineFramer


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    machine = MessageMachine(NewlineFramer())
    while True:
        event = machine.next_event()
        if event is NEED_DATA:
            if data := await reader.read(65536):
                machine.receive_data(data)
            else:
                machine.receive_eof()
        elif isinstance(event, EndOfData):
            break
        elif isinstance(event, Request) and event.method == "echo":
            writer.write(machine.send(Response(event.id, event.params)))
        elif isinstance(event, Request):
            error = ErrorObject(ErrorCode.METHOD_NOT_FOUND, "there is only echo")
            writer.write(machine.send(ErrorResponse(event.id, error)))
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
