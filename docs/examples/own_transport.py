"""A transport of one's own: a connected socket that was inherited, ``fd:NUMBER``."""

import socket
from collections.abc import Mapping

import trio

from trio_mcp_transport import (
    ChannelContext,
    ConfigurationError,
    ConnectFailed,
    Endpoint,
    EventHandler,
    MessageChannel,
    Request,
    StreamChannel,
    open_channel,
    read_endpoint,
    register_transport,
)


class FdEndpoint(Endpoint, frozen=True):
    """An inherited socket: ``fd:NUMBER``. Its options are those of every channel."""

    scheme = "fd"
    target_fields = ("number",)

    number: int

    def target(self) -> str:
        return str(self.number)


def parse(target: str, parameters: Mapping[str, object]) -> FdEndpoint:
    if not target.isdecimal():
        raise ConfigurationError("fd: needs the number of a file descriptor")
    return read_endpoint(FdEndpoint, parameters, number=int(target))


async def connect(
    nursery: trio.Nursery, endpoint: FdEndpoint, on_event: EventHandler | None
) -> MessageChannel:
    await trio.lowlevel.checkpoint()
    try:
        sock = trio.socket.from_stdlib_socket(socket.socket(fileno=endpoint.number))
    except OSError as error:
        raise ConnectFailed(f"{endpoint} is no socket") from error
    return StreamChannel(
        trio.SocketStream(sock),
        nursery=nursery,
        context=ChannelContext(transport="fd"),
        options=endpoint.options,
        on_event=on_event,
    )


async def main() -> None:
    ours, theirs = socket.socketpair()
    register_transport("fd", parse, connect, listen=None)
    async with open_channel(f"fd:{ours.detach()}?write_timeout=5") as channel:
        await channel.send(Request(id=1, method="ping"))
        await channel.flush()
        print(theirs.recv(1000).decode(), end="")
    theirs.close()


if __name__ == "__main__":
    trio.run(main)
