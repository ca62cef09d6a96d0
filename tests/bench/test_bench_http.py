"""What `trio-mcp bench` does over HTTP: everybody the same, and it runs."""

from __future__ import annotations

import msgspec
import pytest
import trio

from trio_mcp_transport import Request, open_channel
from trio_mcp_transport.cli import main
from trio_mcp_transport.cli.bench import floor, http_floor
from trio_mcp_transport.cli.bench.payloads import FIRST_ID, METHOD, http_params_of_size

pytestmark = pytest.mark.bench


class Document(msgspec.Struct):
    rows: list[dict[str, object]]


async def test_everybody_posts_the_same_bytes() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"
    received: list[bytes] = []
    came = [trio.Event(), trio.Event()]

    async def take(stream: trio.SocketStream) -> None:
        data = b""
        while not data.endswith(b"}}}}"):
            data += await stream.receive_some(65536)
        received.append(data)
        came[len(received) - 1].set()

    params = http_params_of_size(150)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, take, listeners)
            async with await floor.connect(url, "") as stream:
                http = http_floor.HttpClient(stream, url)
                await http.post(http_floor.encode_request(FIRST_ID, params))
                await came[0].wait()
            async with open_channel(url) as channel:
                await channel.send(Request(FIRST_ID, METHOD, params))
                await came[1].wait()
            nursery.cancel_scope.cancel()
    heads, bodies = zip(*(data.split(b"\r\n\r\n") for data in received), strict=True)
    assert bodies[0] == bodies[1]
    bare, ours = (sorted(head.lower().split(b"\r\n")) for head in heads)
    assert bare == ours


def test_the_official_sdk_is_measured_over_http_as_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("mcp", reason="the official SDK is not installed")
    assert main(["bench", "--quick", "--only", "http", "--only", "sse-stream", "--json", "-"]) == 0
    (row,) = msgspec.json.decode(capsys.readouterr().out, type=Document).rows
    assert (row["work"], row["transport"]) == ("sse-stream", "http")
    for name in ("ours", "floor", "sdk"):
        assert isinstance(row[name], float | int)
