"""`trio-mcp serve --workers`, with real processes."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import trio
from cli_process import Running, run_cli, running, wait_gone
from plain_http import BOTH, Answer, LegacyClient, modern, modern_headers, modern_params

pytestmark = [
    pytest.mark.cli,
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

ADD = ("tools/call", '{"name":"add","arguments":{"a":2,"b":40}}')
URL = "http://127.0.0.1:0/mcp"
#: Calls that tell of each step, so that the answer begins long before its end.
SLOW = {"name": "slow", "arguments": {"seconds": 3, "steps": 30}}
#: Between requests: a connection must be idle at times, as that is when it may be ended.
PAUSE = 0.005
ENDLESS = {"name": "slow", "arguments": {"seconds": 50, "steps": 500}}
STEPS = {"progressToken": 1}


def workers_of(server: Running) -> list[int]:
    """Those that live; each is a child of the thread that started it."""
    found: list[int] = []
    for children in Path(f"/proc/{server.pid}/task").glob("*/children"):
        found += map(int, children.read_text().split())
    return sorted(filter(is_alive, found))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # of nobody who would look after it


def listens(pid: int) -> bool:
    """Whether a process has a socket that listens."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    listening = {f"socket:[{row[9]}]" for row in table if row[3] == "0A"}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            if os.readlink(link) in listening:
                return True
    return False


async def terminate(pid: int) -> None:
    """Tell a worker to end and wait until it knows: equal signals that wait are one."""
    assert listens(pid)
    os.kill(pid, signal.SIGTERM)
    while True:  # the kernel tells nobody
        if not listens(pid):
            return
        await trio.sleep(0.005)


@asynccontextmanager
async def workers(*arguments: str, count: int = 2) -> AsyncGenerator[Running, None]:
    """A supervisor that must leave nothing: no process, and nothing in its directory."""
    # Not in that of the test: a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="w") as private:
        async with running(
            "serve", "--workers", str(count), *arguments, variables={"TMPDIR": private}
        ) as server:
            yield server  # ruff: ignore[fallible-context-manager] (a failed test checks nothing)
            pids = [] if server.process.poll() is not None else workers_of(server)
        for pid in pids:
            await wait_gone(pid)
        assert os.listdir(private) == []


async def sum_at(endpoint: str) -> str:
    done = await run_cli("call", endpoint, *ADD)
    assert done.status == 0, done.err
    content = msgspec.convert(done.messages[0]["content"], list[dict[str, str]])
    return content[0]["text"]


async def pings(client: LegacyClient, times: int = 8) -> list[int]:
    """The statuses of requests on connections of their own, which any worker may accept."""
    statuses = []
    for number in range(times):
        async with client.request("ping", request_id=number) as answer:
            statuses.append(answer.status)
            await answer.body()
    return statuses


@asynccontextmanager
async def under_way(url: str) -> AsyncGenerator[Answer, None]:
    """A call that has begun. It must be answered, but not before the block is left."""
    async with modern(url, "tools/call", SLOW, meta=STEPS) as answer:
        assert (await answer.message())["method"] == "notifications/progress"
        yield answer  # ruff: ignore[fallible-context-manager] (a failed test checks nothing)
        assert b'"result"' not in answer.unread()
        assert "result" in await answer.outcome()


async def test_every_transport_of_sockets_is_served_by_several(tmp_path: Path) -> None:
    certificates = tmp_path / "certs"
    assert (await run_cli("cert", str(certificates))).status == 0
    ca = f"ca_file={certificates}/ca.pem"
    flags = (
        f"--tls-cert={certificates}/server.pem",
        f"--tls-key={certificates}/server.key",
    )
    path = f"@trio-mcp-test-{os.getpid()}"
    schemes = ("http", "ws", "tcp", "https", "tls")
    listen = [f"--listen={scheme}://127.0.0.1:0" for scheme in schemes]
    async with workers(*listen, f"--listen=unix:{path}", *flags) as server:
        await server.wait_err(r"listening on unix:\S+\n")
        for scheme in schemes:
            found = await server.wait_listening(scheme)
            query = f"?{ca}" if scheme in {"https", "tls"} else ""
            url = found.replace("127.0.0.1", "localhost") if query else found
            assert await sum_at(f"{url}{query}") == "42"
        assert await sum_at(f"unix:{path}") == "42"
        # Also when one of them is another one.
        server.signal(signal.SIGHUP)
        await server.wait_err("all workers are new")
        assert await sum_at(f"unix:{path}") == "42"
        server.signal(signal.SIGTERM)
        assert (await server.finish()).status == 128 + signal.SIGTERM


async def test_a_session_is_found_whoever_accepts_the_connection() -> None:
    async with workers("--listen", URL) as server:
        url = await server.wait_listening("http")
        clients = [LegacyClient(url) for _ in range(4)]
        for client in clients:
            await client.initialize()
        for client in clients:
            assert set(await pings(client)) == {200}
            async with client.get() as stream:
                assert stream.status == 200
            assert await client.delete() == 204
            assert set(await pings(client, 2)) == {404}


async def test_a_worker_that_is_killed_is_replaced_and_its_sessions_are_unknown() -> None:
    async with workers("--listen", URL) as server:
        url = await server.wait_listening("http")
        first, second = workers_of(server)
        clients: dict[str, LegacyClient] = {}
        while len(clients) < 2:  # one of each worker
            client = LegacyClient(url)
            await client.initialize()
            assert client.session_id
            clients.setdefault(client.session_id.partition(".")[0], client)
        # Numbers are given in the order of starting.
        os.kill(first, signal.SIGKILL)
        await server.wait_err(r"worker 1 has ended unexpectedly \(SIGKILL\)")
        async with modern(url, "tools/list") as answer:
            assert answer.status == 200  # by the other
        assert workers_of(server)[0] == second
        assert set(await pings(clients["1"])) == {404}
        assert set(await pings(clients["2"])) == {200}


async def test_a_hangup_replaces_all_and_what_has_begun_is_finished() -> None:
    async with workers("--listen", URL) as server:
        url = await server.wait_listening("http")
        before = workers_of(server)
        async with under_way(url):
            server.signal(signal.SIGHUP)
        await server.wait_err("SIGHUP: all workers are new")
        for pid in before:
            await wait_gone(pid)
        assert not set(before) & set(workers_of(server))
        assert len(workers_of(server)) == 2
        assert await sum_at(url) == "42"


def kept_alive(url: str, over: threading.Event) -> int:
    """Requests by the standard library's client, which uses a connection for as long as it may."""
    parts = urlsplit(url)
    assert parts.hostname
    params = modern_params()
    headers = {
        name: value for name, value in modern_headers("tools/list", params).items() if value
    } | {"Accept": BOTH, "Content-Type": "application/json"}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}
    body = msgspec.json.encode(request)
    client = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    count = 0
    with closing(client):
        while not over.wait(PAUSE):
            client.request("POST", parts.path, body, headers)
            answer = client.getresponse()
            assert b'"result"' in answer.read(), answer.status
            count += 1
    return count


async def test_no_request_fails_while_workers_are_replaced() -> None:
    over = threading.Event()
    counts: list[int] = []

    async def keep_alive(url: str) -> None:
        counts.append(await trio.to_thread.run_sync(kept_alive, url, over))

    async def connect_anew(url: str) -> None:
        count = 0
        while not over.is_set():
            async with modern(url, "tools/list") as answer:
                assert answer.status == 200
                assert "result" in await answer.json()
            count += 1
            await trio.sleep(PAUSE)
        counts.append(count)

    async with workers("--listen", URL) as server:
        url = await server.wait_listening("http")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(keep_alive, url)
                nursery.start_soon(connect_anew, url)
            try:
                before = workers_of(server)
                server.signal(signal.SIGHUP)
                await server.wait_err("all workers are new")
                for pid in before:
                    await wait_gone(pid)
            finally:
                over.set()
        assert len(counts) == 4
        assert min(counts) > 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_has_begun_is_finished_at_the_end(number: signal.Signals) -> None:
    async with workers("--listen", URL) as server:
        url = await server.wait_listening("http")
        async with under_way(url):
            server.signal(number)
        assert (await server.finish()).status == 128 + number


async def test_what_has_begun_is_finished_when_all_processes_are_told_to_end() -> None:
    async with workers("--listen", URL) as server:
        url = await server.wait_listening("http")
        async with under_way(url):
            for pid in workers_of(server):
                await terminate(pid)
            server.signal(signal.SIGTERM)
        done = await server.finish()
        assert done.status == 128 + signal.SIGTERM


async def test_a_worker_that_is_told_to_end_finishes_what_it_does_and_is_replaced() -> None:
    async with workers("--listen", URL, count=1) as server:
        url = await server.wait_listening("http")
        (old,) = workers_of(server)
        async with under_way(url):
            await terminate(old)
            os.kill(old, signal.SIGTERM)
        await server.wait_err(r"worker 1 has ended unexpectedly \(exit status 143\)")
        assert await sum_at(url) == "42"


async def test_a_second_signal_aborts() -> None:
    async with workers("--listen", URL, "--drain", "inf") as server:
        url = await server.wait_listening("http")
        pids = workers_of(server)
        assert len(pids) == 2
        async with modern(url, "tools/call", ENDLESS, meta=STEPS):
            server.signal(signal.SIGTERM)
            host, port = re.findall(r"//(.*):(\d+)/", url)[0]
            while True:  # until nobody listens any more
                try:
                    await (await trio.open_tcp_stream(host, int(port))).aclose()
                except OSError:
                    break
            assert server.process.poll() is None
            server.signal(signal.SIGTERM)
            assert (await server.finish()).status == 128 + signal.SIGTERM
        assert not any(map(is_alive, pids))


async def test_workers_end_with_a_supervisor_that_is_killed() -> None:
    async with workers("--listen", URL) as server:
        await server.wait_listening("http")
        pids = workers_of(server)
        assert len(pids) == 2
        server.signal(signal.SIGKILL)
        await server.process.wait()
        for pid in pids:
            await wait_gone(pid)


async def test_a_port_that_is_taken_is_told_once_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with workers("--listen", f"http://127.0.0.1:{port}/mcp") as server:
            done = await server.finish()
    assert done.status == 1
    assert done.err.count("Address already in use") == 1


async def test_what_keeps_workers_from_starting_is_told_once() -> None:
    arguments = ("--listen", "https://127.0.0.1:0/mcp", "--tls-cert", "/nowhere.pem")
    async with workers(*arguments, count=3) as server:
        done = await server.finish()
    assert done.status == 2
    assert done.err.count("No such file") == 1
    assert "worker 1 ended before it was ready (exit status 2)" in done.err
    assert "listening" not in done.err


@pytest.mark.parametrize("endpoint", ["stdio:", "shm://x?create=true"])
async def test_what_is_for_one_process_is_refused(endpoint: str) -> None:
    done = await run_cli("serve", "--workers", "2", "--listen", endpoint)
    assert done.status == 2
    assert "--workers: " in done.err


async def test_a_command_is_served_by_several(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "trio_mcp_transport", "serve")
    async with workers("--listen", URL, "--", *command) as server:
        url = await server.wait_listening("http")
        client = LegacyClient(url)
        await client.initialize()
        assert set(await pings(client)) == {200}
        assert await sum_at(url) == "42"


async def test_the_file_of_a_unix_socket_is_the_supervisors() -> None:
    with tempfile.TemporaryDirectory(prefix="w") as directory:
        path = f"{directory}/s"
        async with workers(f"--listen=unix:{path}") as server:
            await server.wait_listening("unix")
            (old, _) = workers_of(server)
            os.kill(old, signal.SIGTERM)  # a worker that ends leaves it
            await server.wait_err("worker . has ended unexpectedly")
            assert await sum_at(f"unix:{path}") == "42"
            server.signal(signal.SIGTERM)
            assert (await server.finish()).status == 128 + signal.SIGTERM
        assert os.listdir(directory) == []
