"""What the README and the pages say is true: their programs run, their tables are complete."""

from __future__ import annotations

import inspect
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

import trio_mcp_transport
from trio_mcp_transport import (
    ChannelOptions,
    Endpoint,
    HttpEndpoint,
    MemoryEndpoint,
    ProcessEndpoint,
    ShmEndpoint,
    StdioEndpoint,
    TcpEndpoint,
    TlsEndpoint,
    TlsSettings,
    TlsUnixEndpoint,
    TransportError,
    UnixEndpoint,
    WebSocketEndpoint,
    features,
    limits,
    parse_endpoint,
)
from trio_mcp_transport.sansio.http1 import Http1Limits

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = [ROOT / "README.rst", *sorted(DOCS.rglob("*.rst"))]


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in front of PATH in which `python` is this interpreter."""
    directory = tmp_path_factory.mktemp("bin")
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        own = Path(sys.executable).parent
        patch.setenv("PATH", os.pathsep.join([str(directory), str(own), os.environ["PATH"]]))
        yield directory


def run(command: str, cwd: Path, stdin: str = "") -> str:
    """Run one line of a console block; return what it printed."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def running(*arguments: str, cwd: Path) -> Generator[subprocess.Popen[str], None, None]:
    """A server in the background; ended with the block."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            yield server
            server.send_signal(signal.SIGINT)  # so that it tidies up
            server.wait(30)
        finally:
            server.kill()


def wait_until(holds: Callable[[], bool]) -> None:
    """Return when something holds."""
    poll = select.poll()  # only to wait a little without a clock of our own
    for _ in range(3000):
        if holds():
            return
        poll.poll(10)
    raise AssertionError("it never did")


def wait_for_listener(path: Path) -> None:
    """Return when somebody listens at a Unix socket."""

    def somebody_listens() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(path)) == 0

    wait_until(somebody_listens)


def free_address() -> str:
    """HOST:PORT of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_for_address(address: str) -> None:
    """Return when somebody listens at HOST:PORT."""
    host, _, port = address.partition(":")

    def somebody_listens() -> bool:
        with socket.socket() as client:
            return client.connect_ex((host, int(port))) == 0

    wait_until(somebody_listens)


# -- Examples --------------------------------------------------------------------------


def console_blocks(page: Path) -> list[list[tuple[str, str]]]:
    """The console blocks of a page: commands, each with the output that is shown."""
    found = []
    for block in re.findall(
        r"^\.\. code-block:: console\n\n((?:   .*\n|\n)+)", page.read_text(), re.MULTILINE
    ):
        commands: list[tuple[str, str]] = []
        for line in block.splitlines():
            text = line.strip()
            if text.startswith("$ "):
                commands.append((text.removeprefix("$ "), ""))
            elif text:
                command, output = commands[-1]
                commands[-1] = (command, f"{output}{text}\n")
        found.append(commands)
    return found


def test_the_tutorial_shows_what_its_programs_print(tmp_path: Path) -> None:
    shown = {
        command: output
        for block in console_blocks(DOCS / "tutorial" / "first-steps.rst")
        for command, output in block
        if "_client.py" in command
    }
    assert len(shown) == 3
    path = tmp_path / "s"
    with running("echo_server.py", f"unix:{path}", cwd=EXAMPLES):
        wait_for_listener(path)
        for command, output in shown.items():
            here = command.replace("tcp://127.0.0.1:9000", f"unix:{path}")
            assert run(here, EXAMPLES) == output, command


@pytest.mark.skipif(not features().extras["mcp"], reason="the official MCP SDK is not installed")
def test_the_official_sdk_speaks_to_itself_over_our_channels(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with running("adder_server.py", f"unix:{path}", cwd=EXAMPLES):
        wait_for_listener(path)
        assert run(f"python adder_client.py unix:{path}", EXAMPLES) == "{'result': 42}\n"


def test_the_bridge_of_a_few_lines_runs(tmp_path: Path) -> None:
    path = tmp_path / "s"
    server = f"stdio:{sys.executable} echo_server.py"
    with running("bridge.py", server, f"unix:{path}", cwd=EXAMPLES):
        wait_for_listener(path)
        assert run(f"python echo_client.py unix:{path}", EXAMPLES) == "{'text': 'hello'}\n"


def test_the_transport_of_ones_own_runs() -> None:
    assert run("python own_transport.py", EXAMPLES) == (
        '{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    )


@pytest.mark.parametrize(
    ("file", "closing"), [("fuzz_framers.py", "1 passed"), ("test_my_server.py", "3 passed")]
)
def test_the_tests_among_the_examples_pass(file: str, closing: str) -> None:
    assert closing in run(f"python -m pytest -q -p no:cacheprovider {file}", EXAMPLES)


def test_the_machine_serves_behind_asyncio() -> None:
    with running("asyncio_server.py", cwd=EXAMPLES) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":1}}\n')
            client.sendall(b'{"jsonrpc":"2.0","id":2,"method":"other"}\n')
            with client.makefile("r") as answers:
                assert json.loads(answers.readline())["result"] == {"a": 1}
                assert json.loads(answers.readline())["error"]["code"] == -32601


def test_every_example_is_shown_on_a_page_and_named_by_a_test() -> None:
    pages = "".join(page.read_text() for page in PAGES)
    tests = "".join(path.read_text() for path in ROOT.rglob("tests/**/test_*.py"))
    for example in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.sh")]:
        assert f"examples/{example.name}" in pages, example.name
        assert example.name in tests or f"python {example.name}" in pages, example.name


# -- Pages -----------------------------------------------------------------------------

PLACEHOLDERS = re.compile(r"[A-Z]{4}|\.\.\.|://$")
SCHEMES = (
    *("stdio", "memory", "shm", "tcp", "tls", "unix", "tls+unix", "ws", "wss"),
    *("http", "https", "sse+http", "sse+https"),
)
#: A scheme by itself (``unix:``, ``tcp://``) is none; only own stdio is named by its scheme.
ENDPOINT = re.compile(rf"``((?:{'|'.join(map(re.escape, SCHEMES))}):(?!(?://)?``)[^`]*|stdio:)``")


def endpoint_texts() -> list[str]:
    """Every endpoint that a page shows as code."""
    found: set[str] = set()
    for page in PAGES:
        for text in ENDPOINT.findall(page.read_text()):
            if not PLACEHOLDERS.search(text):
                found.add(" ".join(text.split()))
    return sorted(found)


@pytest.mark.parametrize("text", endpoint_texts())
def test_an_endpoint_on_a_page_can_be_parsed(text: str) -> None:
    assert str(parse_endpoint(text))


def test_the_pages_show_endpoints_of_every_scheme() -> None:
    like_others = {"wss", "sse+https"}
    shown = {text.partition(":")[0] for text in endpoint_texts()}
    assert shown >= set(SCHEMES) - like_others


@pytest.mark.parametrize(
    "struct",
    [
        ChannelOptions,
        HttpEndpoint,
        MemoryEndpoint,
        ProcessEndpoint,
        ShmEndpoint,
        StdioEndpoint,
        TcpEndpoint,
        TlsEndpoint,
        TlsSettings,
        TlsUnixEndpoint,
        UnixEndpoint,
        WebSocketEndpoint,
    ],
)
def test_every_option_is_explained(
    struct: type[Endpoint | ChannelOptions | TlsSettings],
) -> None:
    # Python 3.13 and later take the indentation out by themselves.
    explained = "\n".join(inspect.cleandoc(each.__doc__ or "") for each in struct.__mro__)
    for field in msgspec.structs.fields(struct):
        assert f"\n    {field.name}: " in explained, field.name


@pytest.mark.parametrize("command", ["serve", "connect", "call", "tap", "demo", "cert", "bench"])
def test_every_option_of_the_command_line_is_explained(command: str, tmp_path: Path) -> None:
    page = (DOCS / "reference" / "cli.rst").read_text()
    common, *sections = re.split(r"^(\w+)\n-+$", page, flags=re.MULTILINE)
    section = dict(zip(sections[::2], sections[1::2], strict=True))[command]
    explained = re.findall(r"``(--[\w-]+)", common + section)
    help_ = run(f"trio-mcp {command} --help", tmp_path)
    options = set(re.findall(r"^  +(?:-\w, )?(--[\w-]+)", help_, re.MULTILINE))
    assert options - {"--help"} <= set(explained)
    assert set(re.findall(r"^``(--[\w-]+)", section, re.MULTILINE)) <= options


def test_the_timeouts_page_has_every_timeout_with_its_default() -> None:
    page = (DOCS / "discussion" / "timeouts.rst").read_text()
    rows = dict(re.findall(r"^``(\w+_timeout)`` +(\S+)", page, re.MULTILINE))
    defaults = {
        field.name: "off" if field.default in {None, float("inf")} else f"{field.default:g}"
        for struct in (
            ChannelOptions,
            HttpEndpoint,
            TlsSettings,
            WebSocketEndpoint,
            ShmEndpoint,
        )
        for field in msgspec.structs.fields(struct)
        if field.name.endswith("_timeout")
    }
    defaults["idle_timeout"] = f"{limits.HTTP_IDLE_TIMEOUT:g}"  # None is that, when listening
    assert rows == defaults


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    page = (DOCS / "reference" / "errors.rst").read_text()
    parents: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    for line in re.findall(r"^    ( *[|+\- ]*\w+)(?:  .*)?$", page.split("text")[1], re.MULTILINE):
        name = re.sub(r"^[ |+\-]*", "", line)
        depth = len(line) - len(name)
        while stack and stack[-1][0] >= depth:
            stack.pop()
        if stack:
            parents[name] = stack[-1][1]
        stack.append((depth, name))
    faces = vars(trio_mcp_transport)
    exceptions = {
        name: value
        for name, value in faces.items()
        if isinstance(value, type) and issubclass(value, TransportError)
    }
    assert parents.keys() | {"TransportError"} == exceptions.keys()
    for name, parent in parents.items():
        assert exceptions[parent] in exceptions[name].__mro__, name


# -- The README ------------------------------------------------------------------------


def readme_programs() -> dict[str, str]:
    text = (ROOT / "README.rst").read_text()
    found = {}
    for name, block in re.findall(
        r"^\.\. code-block:: python\n    :name: (\S+)\n\n((?:    .*\n|\n)+)", text, re.MULTILINE
    ):
        found[name] = "\n".join(line[4:] for line in block.splitlines())
    assert len(found) == text.count("code-block:: python")
    return found


@pytest.mark.parametrize(
    ("program", "printed"),
    [
        ("my_client.py", "{'text': 'hello'}\n"),
        ("my_tool.py", "{'content': [{'type': 'text', 'text': 'hello'}]}\n"),
    ],
)
def test_the_programs_of_the_readme_run(program: str, printed: str, tmp_path: Path) -> None:
    for name, text in readme_programs().items():
        (tmp_path / name).write_text(text)
    output = run(f"python {program}", tmp_path)
    assert printed.removesuffix("}\n") in output


def test_the_first_commands_of_the_readme_are_each_one_line() -> None:
    (first, second), *_ = ([command for command, _ in block] for block in readme_consoles())
    assert first.endswith("trio-mcp demo")
    assert second.endswith("pytest")


def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    commands = [command for command, _ in readme_consoles()[1]]
    address = free_address()
    serve, connect, call, tap = (
        command.replace("127.0.0.1:9443", address).replace(
            "npx -y some-stdio-server", "python tool_server.py"
        )
        for command in commands
    )
    words = serve.split()
    assert words[0] == "trio-mcp"
    key = "io.modelcontextprotocol/"
    meta = {f"{key}protocolVersion": "2026-07-28", f"{key}clientCapabilities": {}}
    discover = {"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}}
    line = f"{json.dumps(discover)}\n"
    with running("-m", "trio_mcp_transport", *words[1:], cwd=EXAMPLES):
        wait_for_address(address)
        assert json.loads(run(call, tmp_path))["tools"][0]["name"] == "add"
        answer = json.loads(run(connect, tmp_path, stdin=line))
        assert answer["id"] == 1
        assert "result" in answer
        assert json.loads(run(tap, tmp_path, stdin=line)) == answer


def readme_consoles() -> list[list[tuple[str, str]]]:
    return console_blocks(ROOT / "README.rst")


# -- The hardening page ----------------------------------------------------------------


def shown(name: str, value: object) -> str:
    """A default as the page writes it."""
    if isinstance(value, bool):
        return "off" if not value else "on"
    if value == float("inf"):
        return "off"
    if name == "permissions" and isinstance(value, int):
        return f"0{value:o}"
    if name.lower().endswith("_bytes") and isinstance(value, int):
        mib = value // 1024 // 1024
        return f"{mib} MiB" if mib else f"{value // 1024} KiB"
    if isinstance(value, float):
        return f"{value:g} s"
    return str(value)


def test_the_hardening_page_shows_the_real_defaults() -> None:
    page = (DOCS / "discussion" / "hardening.rst").read_text()
    rows = re.findall(r"^     - ``(\w+)``\n     -(.*)$", page, re.MULTILINE)
    defaults: dict[str, object] = {}
    structs = (
        ProcessEndpoint,
        TcpEndpoint,
        UnixEndpoint,
        HttpEndpoint,
        WebSocketEndpoint,
        TlsSettings,
        Http1Limits,
        ChannelOptions,
    )
    for struct in structs:
        for field in msgspec.structs.fields(struct):
            defaults[field.name] = field.default
    defaults |= {name: value for name, value in vars(limits).items() if name.isupper()}
    defaults["idle_timeout"] = limits.HTTP_IDLE_TIMEOUT  # None is that, when listening
    assert len(rows) > 25
    for name, default in rows:
        if default.strip():
            assert default.strip() == shown(name, defaults[name]), name
