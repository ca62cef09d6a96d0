"""The command line itself: what is understood, what is refused, and how that is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_process import command, environment

from trio_mcp_transport import __version__
from trio_mcp_transport.cli import main
from trio_mcp_transport.cli.arguments import COMMANDS

pytestmark = pytest.mark.cli


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSPORT", "MCP_STDIO_CONFIG", "MCP_KEEPALIVE_MS", "MCP_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a wrong command line is answered with."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1].startswith("trio-mcp")
    assert "Traceback" not in captured.err
    return lines[-1]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trio-mcp {__version__}\n"


def test_the_help_describes_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, description in COMMANDS.items():
        assert name in text
        assert description in text


@pytest.mark.parametrize("name", sorted(set(COMMANDS)))
def test_every_command_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert "--debug" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name a command"),
        (["fly"], "invalid choice: 'fly'"),
        (["serve", "--listen", "post://x"], "no transport is called 'post'"),
        (["serve", "--transport=post"], "there is no 'post', only: http, https, memory, "),
        (["call", "--transport=https"], "an endpoint must be given, too"),
        (["serve", "--listen", "http://0.0.0.0:1"], "auth=bearer asks for a token, --allow-un"),
        (["serve", "--listen", "http://h:1", "--listen", "http://h:1/b"], "is given twice"),
        (["serve", "--listen", "http://localhost:1/?header.A=b"], "headers is for connecting"),
        (["serve", "--listen", "unix:/x", "--allow-host", "a.example"], "are for HTTP endpoints"),
        (["serve", "--listen", "http://h:1", "--allow-origin", "h"], "'h' is no origin"),
        (["serve", "--listen", "http://h:1", "--allow-host", "*"], "say check_host=false"),
        (["call", "memory:x", "--header", "A: b"], "--header is for HTTP, not for memory:x"),
        (["call", "http://h:1", "--header", "A b"], "must be written as 'NAME: VALUE'"),
        (["call", "http://h:1", "--header", "@/nowhere/x"], "--header @/nowhere/x: "),
        (["call", "http://h:1", "--header", "Host: b"], "Host is set by the transport itself"),
        (["serve", "--transport=memory"], "an endpoint must be given, too"),
        (["serve", "--listen", "tcp://127.0.0.1"], "--listen: tcp://HOST:PORT: the port"),
        (
            ["serve", "--transport=tcp", "--listen", "unix:/x"],
            "the endpoint is of unix, but tcp was asked for",
        ),
        (["serve", "--listen", "memory:x"], "no other process could ever connect"),
        (["serve", "--listen", "stdio:cat"], "a command is served with `-- COMMAND`"),
        (["serve", "--listen", "stdio:", "--listen", "stdio:?framing=detect"], "is given twice"),
        (["serve", "--listen", "unix:/x", "--listen", "unix:/y/../x"], "is given twice"),
        (["serve", "--listen", "tcp://[::1]:9", "--listen", "tcp://[::1]:9"], "is given twice"),
        (["serve", "--stdiocfg", "timeout_ms=soon"], "--stdiocfg: timeout_ms"),
        (["serve", "--stdiocfg", "a=1", "--transport=tcp"], "--stdiocfg says nothing about tcp"),
        (["serve", "--stdiocfg", "timeout_ms=1", "--listen", "unix:/x"], "--stdiocfg and"),
        (["serve", "--keepalive-ms", "often"], "--keepalive-ms must be a whole number"),
        (["serve", "--keepalive-ms", "5", "--", "cat"], "not for COMMAND"),
        (["serve", "--max-children", "0", "--", "cat"], "--max-children must be at least 1"),
        (["serve", "--"], "`--` stands before a COMMAND"),
        (["serve", "--", "/nowhere/to/be/found"], "'/nowhere/to/be/found' cannot be found"),
        (["serve", "--drain", "-1"], "'-1' is no number of seconds"),
        (["connect", "stdio:"], "cannot be joined to themselves"),
        (["connect", "nonsense"], "ENDPOINT: an endpoint starts with its scheme"),
        (["connect", "memory:x", "--", "cat"], "`--` stands before a COMMAND"),
        (["tap", "stdio:", "stdio:"], "B: own stdin and stdout are the side that asks"),
        (["call"], "name an ENDPOINT"),
        (["call", "memory:x", "m", "{}", "more"], "too many arguments: more"),
        (["call", "memory:x", "m", "{"], "PARAMS_JSON"),
        (["call", "memory:x", "m", "3"], "PARAMS_JSON must be an object or an array"),
        (["call", "memory:x", "--timeout", "soon"], "'soon' is no number of seconds"),
        (["call", "memory:x", "--revision", "1999-01-01"], "invalid choice: '1999-01-01'"),
        (["call", "--url=memory:x", "--stdiocfg=timeout_ms=1"], "--stdiocfg and --url"),
        (["--import", "no_such_module_anywhere", "demo"], "--import no_such_module_anywhere"),
        (["demo", "--lo", "debug"], "unrecognized arguments"),
    ],
)
def test_a_wrong_command_line_is_status_2_and_one_clear_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(capsys, *words)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("TRANSPORT", "pigeon", "TRANSPORT must be one of stdio, http, tcp, tls, unix"),
        ("MCP_STDIO_CONFIG", "timeout=1", "MCP_STDIO_CONFIG: unknown option 'timeout'"),
        ("MCP_KEEPALIVE_MS", "x", "MCP_KEEPALIVE_MS must be a whole number"),
    ],
)
def test_a_wrong_variable_is_named(
    variable: str,
    value: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    assert told in refused(capsys, "serve")


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "192.0.2.1",
        "[::]",
        "[2001:db8::1]",
        "*",
        "no-such-name.invalid",
        "loc\u00e4lhost",
    ],
)
def test_strangers_are_not_served_by_accident(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, "serve", "--listen", f"tcp://{host}:0")
    assert "--allow-unauthenticated" in told


def test_an_unknown_server_is_status_1_and_one_clear_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["call", "memory:nobody-listens-here", "ping"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "nobody-listens-here" in captured.err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["call", "memory:nobody-listens-here", "ping", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_transport_made_elsewhere_is_imported_first() -> None:
    done = subprocess.run(
        command("--import", "echo_endpoints_cli", "call", "loopback:x", "ping"),
        env=environment({"PYTHONPATH": __file__.rpartition("/")[0]}),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 1
    assert "the loopback was asked for x" in done.stderr


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        command("--version"), env=environment(), capture_output=True, check=True, text=True
    )
    assert done.stdout == f"trio-mcp {__version__}\n"


def test_a_command_does_not_import_the_others() -> None:
    program = (
        "import sys; from trio_mcp_transport.cli import main; main(['connect', 'nonsense']);"
        "print(sorted(name for name in sys.modules if name.startswith('trio_mcp_transport.cli')"
        " or name == 'rich'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        check=True,
        text=True,
    )
    for other in ("demo", "bench", "tap", "call", "serve", "builtin_server", "'rich'"):
        assert other not in done.stdout
