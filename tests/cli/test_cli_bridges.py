"""``connect``, ``tap`` and ``serve -- COMMAND`` with real processes, alive and killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio
from cli_process import INITIALIZE, PATIENCE, echo_server, run_cli, running, wait_gone
from shared_memory import needs_sealed_memory

pytestmark = [
    pytest.mark.cli,
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform == "win32", reason="signals and process groups"),
]

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
LIST = b'{"jsonrpc":"2.0","id":2,"method":"tools/list"}\n'
SLOW = (
    b'{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"slow",'
    b'"arguments":{"seconds":%b,"steps":1}}}\n'
)


def address(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return host, int(port)


async def connect(endpoint: str) -> trio.SocketStream:
    return await trio.open_tcp_stream(*address(endpoint))


async def read_line(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    while not data.endswith(b"\n"):
        chunk = await stream.receive_some()
        if not chunk:
            return data
        data += chunk
    return data


async def pid_in(path: Path) -> int:
    """The process id that an echo server leaves: the answer to a first line says it is there."""
    return int(await trio.Path(path).read_text())


# -- connect -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme", ["tcp", "unix", pytest.param("shm", marks=[pytest.mark.shm, needs_sealed_memory])]
)
async def test_what_is_piped_into_connect_gets_its_answers(scheme: str, tmp_path: Path) -> None:
    endpoint = {
        "tcp": "tcp://127.0.0.1:0",
        "unix": f"unix:{tmp_path / 'sock'}",
        "shm": f"shm://cli?directory={tmp_path / 'shm'}",
    }[scheme]
    async with running("serve", "--listen", endpoint) as server:
        bound = await server.wait_listening(scheme)
        done = await run_cli("connect", bound, stdin=INITIALIZE + PING + LIST + SLOW % b"0.3")
        assert done.err == ""
        assert done.status == 0
        assert {message["id"] for message in done.messages} == {0, 1, 2, 3}


async def test_connect_is_a_stdio_server_in_a_hosts_configuration() -> None:
    async with running("serve", "--listen", "tcp://127.0.0.1:0") as server:
        bound = await server.wait_listening()
        through = f"stdio:{sys.executable} -m trio_mcp_transport connect {bound}"
        done = await run_cli("call", through, "tools/list")
        assert done.status == 0, done.err
        assert b'"name":"echo"' in done.out


async def test_connect_to_nobody_is_one_line_and_status_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = await run_cli("connect", f"tcp://127.0.0.1:{port}")
    assert done.status == 1
    assert done.out == b""
    assert done.err.startswith(f"trio-mcp: cannot connect to tcp://127.0.0.1:{port}: ")
    assert done.err.count("\n") == 1


async def test_connect_ends_when_its_server_is_killed_and_tells_so() -> None:
    async with running("serve", "--listen", "tcp://127.0.0.1:0") as server:
        bound = await server.wait_listening()
        async with running("connect", bound) as bridge:
            await bridge.write(INITIALIZE)
            assert await bridge.read_line()
            server.process.kill()
            done = await bridge.finish()
            assert done.status == 1
            assert bound in done.err
            assert done.err.count("\n") == 1


async def test_connect_ends_and_its_child_too_when_its_host_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = tmp_path / "server.py"
    script.write_text(echo_server(pid_file)[-2])
    child = f"{sys.executable} -I -S {script} {pid_file}"
    # The host: starts the bridge, waits for its first answer, and is killed.
    host = (
        "import subprocess, sys, time\n"
        "bridge = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "bridge.stdin.write(b'hello\\n'); bridge.stdin.flush()\n"
        "print(bridge.pid, bridge.stdout.readline().decode(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    bridge = [sys.executable, "-m", "trio_mcp_transport", "connect", f"stdio:{child}"]
    async with running(program=[sys.executable, "-c", host, *bridge]) as host_process:
        line = await host_process.read_line()
        bridge_pid = int(line.split()[0])
        assert line.split()[1] == b"hello"
        child_pid = await pid_in(pid_file)
        host_process.process.kill()
        await wait_gone(bridge_pid)
        await wait_gone(child_pid)


async def test_nobody_reading_stdout_ends_connect_quietly() -> None:
    read_end, write_end = os.pipe()
    async with running("serve", "--listen", "tcp://127.0.0.1:0") as server:
        bound = await server.wait_listening()
        try:
            async with running("connect", bound, stdout=write_end) as bridge:
                os.close(write_end)
                await bridge.write(INITIALIZE)
                await trio.lowlevel.wait_readable(read_end)
                os.close(read_end)
                read_end = -1
                await bridge.write(PING)
                assert await bridge.process.wait() == 141
                assert bridge.process.stderr is not None
                assert await bridge.process.stderr.receive_some() == b""
        finally:
            if read_end != -1:
                os.close(read_end)


async def test_a_server_that_never_ends_is_left_after_the_drain() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener, trio.open_nursery() as nursery:
        port = listener.socket.getsockname()[1]
        streams: list[trio.SocketStream] = []

        async def accept() -> None:
            streams.append(await listener.accept())

        nursery.start_soon(accept)
        done = await run_cli("connect", f"tcp://127.0.0.1:{port}", "--drain", "0.1", stdin=PING)
        assert done.status == 0
        assert "had not ended 0.1 s after the client" in done.err
        assert await read_line(streams[0]) == PING
        await streams[0].aclose()


# -- serve -- COMMAND --------------------------------------------------------------------


async def test_each_connection_has_a_child_of_its_own_that_ends_with_it(tmp_path: Path) -> None:
    script = 'exec "$@" "$0/$$"'
    program = ["sh", "-c", script, str(tmp_path), *echo_server(tmp_path)[:-1]]
    with trio.fail_after(PATIENCE):
        async with running("serve", "--listen", "tcp://127.0.0.1:0", "--", *program) as server:
            bound = await server.wait_listening()
            first, second = await connect(bound), await connect(bound)
            for stream in (first, second):
                await stream.send_all(b"{\xffanything\r\n")
                assert await read_line(stream) == b"{\xffanything\r\n"
            pids = set(map(int, os.listdir(tmp_path)))
            assert len(pids) == 2
            await first.send_eof()
            assert await read_line(first) == b""
            await first.aclose()
            # A reset instead of an end.
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            second.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await second.aclose()
            for pid in pids:
                await wait_gone(pid)


async def test_a_killed_child_ends_its_connection_alone_and_says_why(tmp_path: Path) -> None:
    async with running(
        "serve", "--listen", "tcp://127.0.0.1:0", "--", *echo_server(tmp_path / "pid")
    ) as server:
        bound = await server.wait_listening()
        async with await connect(bound) as stream:
            await stream.send_all(PING)
            assert await read_line(stream) == PING
            os.kill(await pid_in(tmp_path / "pid"), signal.SIGKILL)
            assert await read_line(stream) == b""
            await server.wait_err("child.failed: .*SIGKILL")
        async with await connect(bound) as stream:
            await stream.send_all(PING)
            assert await read_line(stream) == PING


async def test_over_stdio_a_killed_child_is_the_commands_own_failure(tmp_path: Path) -> None:
    async with running("serve", "--", *echo_server(tmp_path / "pid")) as server:
        await server.write(PING)
        assert await server.read_line() + b"\n" == PING
        os.kill(await pid_in(tmp_path / "pid"), signal.SIGKILL)
        done = await server.finish()
        assert done.status == 1
        assert "SIGKILL" in done.err


async def test_children_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    # It ignores the end of its stdin, as many servers do.
    stubborn = (
        "import os, sys, time\n"
        "print(os.getpid(), flush=True)\n"
        "sys.stdin.read()\n"
        "while True: time.sleep(3600)\n"
    )
    async with running(
        "serve", "--listen", "tcp://127.0.0.1:0", "--", sys.executable, "-c", stubborn
    ) as server:
        bound = await server.wait_listening()
        async with await connect(bound) as stream:
            pid = int(await read_line(stream))
            server.process.kill()
            await wait_gone(pid)


async def test_beyond_the_cap_connections_wait_for_their_child(tmp_path: Path) -> None:
    async with running(
        "serve",
        "--listen",
        "tcp://127.0.0.1:0",
        "--max-children=1",
        "--",
        *echo_server(tmp_path / "pid"),
    ) as server:
        bound = await server.wait_listening()
        first, second = await connect(bound), await connect(bound)
        await first.send_all(b"[1]\n")
        assert await read_line(first) == b"[1]\n"
        await second.send_all(b"[2]\n")
        first_pid = await pid_in(tmp_path / "pid")
        await first.aclose()
        assert await read_line(second) == b"[2]\n"
        assert await pid_in(tmp_path / "pid") != first_pid
        await second.aclose()


async def test_clients_that_left_while_they_waited_get_no_child(tmp_path: Path) -> None:
    # Each child that is started leaves a line.
    log = tmp_path / "log"
    program = (
        f"import os, sys\n"
        f"with open({str(log)!r}, 'a') as file: file.write('started\\n')\n"
        "for line in sys.stdin.buffer: os.write(1, line)\n"
    )
    async with running(
        "serve", "--listen", "tcp://127.0.0.1:0", "--max-children=1", "--",
        sys.executable, "-I", "-S", "-c", program,
    ) as server:  # fmt: skip
        bound = await server.wait_listening()
        first = await connect(bound)
        await first.send_all(b"[1]\n")
        assert await read_line(first) == b"[1]\n"
        for _ in range(100):
            stream = await connect(bound)
            await stream.send_eof()
            assert await stream.receive_some() == b""  # it was noticed, not left waiting
            await stream.aclose()
        async with await connect(bound) as live:
            # What it sends while it waits reaches its child, in order.
            await live.send_all(b"[2]\n[3]\n")
            await first.aclose()
            await live.send_all(b"4\n")
            await live.send_eof()
            echoed = b""
            while chunk := await live.receive_some():
                echoed += chunk
            assert echoed == b"[2]\n[3]\n4\n"
        assert log.read_text() == "started\n" * 2


async def test_a_command_is_served_at_several_endpoints_at_once(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "trio_mcp_transport", "serve"]
    path = tmp_path / "sock"
    async with running(
        "serve", "--listen", "tcp://127.0.0.1:0", "--listen", f"unix:{path}", "--", *program
    ) as server:
        for scheme in ("tcp", "unix"):
            bound = await server.wait_listening(scheme)
            done = await run_cli(
                "call", bound, "tools/call", '{"name":"echo","arguments":{"text":"é"}}'
            )
            assert done.status == 0, done.err
            assert done.messages[0]["content"] == [{"type": "text", "text": "é"}]


# -- signals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
async def test_after_a_signal_what_is_in_work_finishes_and_the_status_tells(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    path = tmp_path / "sock"
    async with running("serve", "--listen", f"unix:{path}") as server:
        await server.wait_listening("unix")
        async with await trio.open_unix_socket(str(path)) as stream:
            await stream.send_all(INITIALIZE + SLOW % b"0.5" + PING)
            answers = [await read_line(stream)]
            if answers[0].count(b"\n") == 1:
                answers.append(await read_line(stream))
            server.signal(number)
            assert b'"id":3' in await read_line(stream)
            assert await read_line(stream) == b""
        assert await server.process.wait() == status
    assert not path.exists()


async def test_a_second_signal_aborts() -> None:
    async with running("serve", "--listen", "tcp://127.0.0.1:0", "--drain=1000") as server:
        bound = await server.wait_listening()
        async with await connect(bound) as stream:
            await stream.send_all(INITIALIZE + SLOW % b"3600")
            assert await read_line(stream)
            server.signal(signal.SIGTERM)
            # It has noticed when nobody is let in any more.
            await until_refused(bound)
            assert server.process.poll() is None
            server.signal(signal.SIGTERM)
            assert await server.process.wait() == 143


async def until_refused(endpoint: str) -> None:
    """Knock until nobody opens any more."""
    with suppress(OSError):
        while True:
            await (await connect(endpoint)).aclose()


async def test_connect_passes_the_answers_on_before_a_signal_ends_it() -> None:
    async with running("serve", "--listen", "tcp://127.0.0.1:0") as server:
        bound = await server.wait_listening()
        async with running("connect", bound) as bridge:
            await bridge.write(INITIALIZE + SLOW % b"0.5")
            assert await bridge.read_line()
            bridge.signal(signal.SIGTERM)
            done = await bridge.finish()
            assert done.messages[0]["id"] == 3
            assert done.status == 143
            assert done.err == ""


async def test_an_interrupted_call_is_cancelled_at_the_server() -> None:
    async with running("serve", "--listen", "tcp://127.0.0.1:0") as server:
        bound = await server.wait_listening()
        slow = '{"name":"slow","arguments":{"seconds":3600}}'
        async with running("call", bound, "tools/call", slow) as call:
            await wait_until_slow(bound, running_=1, cancelled=0)
            call.signal(signal.SIGINT)
            assert (await call.finish()).status == 130
        await wait_until_slow(bound, running_=0, cancelled=1)


async def wait_until_slow(endpoint: str, *, running_: int, cancelled: int) -> None:
    """Ask the server until it says so."""
    wanted = {"slowRunning": running_, "slowCancelled": cancelled}
    read = '{"uri":"trio-mcp://status"}'
    while True:
        done = await run_cli("call", endpoint, "resources/read", read)
        (content,) = msgspec.convert(done.messages[0]["contents"], list[dict[str, str]])
        if msgspec.json.decode(content["text"]) == wanted:
            return


# -- tap ---------------------------------------------------------------------------------


async def test_a_tap_shows_what_passes_on_stderr_where_stdout_is_the_wire() -> None:
    server = f"stdio:?stderr=drop {sys.executable} -m trio_mcp_transport serve"
    done = await run_cli("tap", "stdio:", server, "--json", stdin=INITIALIZE + PING + b"what\n")
    assert done.status == 0, done.err
    # The one without an id is the answer to what was no message.
    assert {message["id"] for message in done.messages} == {0, 1, None}
    shown = [
        (entry["from"], entry["kind"], entry.get("id"))
        for entry in map(msgspec.json.decode, done.err.splitlines())
        if isinstance(entry, dict)
    ]
    assert sorted(shown, key=str) == sorted(
        [
            ("client", "request", 0),
            ("client", "request", 1),
            ("client", "malformed", None),
            ("client", "end", None),
            ("server", "result", 0),
            ("server", "result", 1),
            ("server", "error", None),
            ("server", "end", None),
        ],
        key=str,
    )


async def test_a_tap_writes_to_a_file_that_only_its_owner_can_read(tmp_path: Path) -> None:
    output = tmp_path / "trace"
    server = f"stdio:{sys.executable} -m trio_mcp_transport serve"
    done = await run_cli("tap", "stdio:", server, "--output", str(output), stdin=INITIALIZE)
    assert done.status == 0
    assert done.err == ""
    assert done.messages[0]["id"] == 0
    text = output.read_text()
    assert "--> request #0 initialize" in text
    assert "<-- result #0 initialize" in text
    assert output.stat().st_mode & 0o777 == 0o600


# -- an independent peer -----------------------------------------------------------------

needs_socat = pytest.mark.skipif(shutil.which("socat") is None, reason="socat is not installed")


@needs_socat
@pytest.mark.interop
async def test_socat_reaches_a_served_endpoint(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    async with running("serve", "--listen", f"unix:{path}") as server:
        await server.wait_listening("unix")
        program = ["socat", "-t", str(PATIENCE), "STDIO", f"UNIX-CONNECT:{path}"]
        done = await run_cli(program=program, stdin=INITIALIZE + LIST)
        assert [message["id"] for message in done.messages] == [0, 2]


@needs_socat
@pytest.mark.interop
async def test_a_server_behind_socat_can_be_called(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    serve = f"EXEC:{sys.executable} -m trio_mcp_transport serve"
    program = ["socat", "-d", "-d", f"UNIX-LISTEN:{path}", serve]
    async with running(program=program) as socat:
        await socat.wait_err("listening on")
        done = await run_cli("call", f"unix:{path}", "tools/list")
        assert done.status == 0, done.err
        assert b'"name":"echo"' in done.out
