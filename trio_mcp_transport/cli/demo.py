"""`trio-mcp demo`: a real conversation over every transport of this machine."""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial

import msgspec
import trio

from ..connect import open_peer
from ..endpoints import Endpoint, ProcessEndpoint
from ..errors import RpcError
from ..installation import features
from ..peer import Peer
from ..reporting import lone_exception
from ..sansio.eras import Era
from ..serve import serve_channels
from .builtin_server import PROMPT_NAME, RESOURCE_URI, BuiltinServer
from .demo_trials import TRIALS, Place, Trial
from .running import ExitStatus, Shutdown
from .running import run as run_command
from .terminal import note, print_table, print_text, tell

__all__ = ["Row", "add_arguments", "converse", "run"]

#: Requests one after the other, whose median is the round trip.
ROUND_TRIPS = 300
#: Requests of which `CONCURRENT` are in flight at a time, for messages per second.
THROUGHPUT_REQUESTS = 2000
CONCURRENT = 50
#: A whole transport takes less than a second; a machine under load gets more.
TRANSPORT_SECONDS = 60.0


class Row(msgspec.Struct, frozen=True):
    """What came of one transport; with ``--json`` these are the objects.

    Attributes:
        transport: Its name.
        ok: Whether the whole conversation went as it should.
        round_trip_us: Microseconds from a request to its answer; the median.
        messages_per_s: Requests and answers in a second, with many requests in flight.
        error: What went wrong, or None.
    """

    transport: str
    ok: bool
    round_trip_us: float | None
    messages_per_s: float | None
    error: str | None


class DemoFailed(Exception):
    """The server did not do what it should."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`."""
    parser.epilog = (
        "On each transport the built-in server is started and talked to in both eras of the"
        " protocol: list, call, progress, cancel. HTTP has a row for each era, and one for"
        " HTTP+SSE, which is older than both. Certificates are made for the occasion. stdio is a"
        " child process; on the others client and server share this one. Exit status 1 if one of"
        " them failed."
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    """Try every transport and print what came of it.

    Raises:
        StdoutClosed: Nobody reads it.
    """
    return run_command(partial(_demo, arguments.json))


async def _demo(as_json: bool, shutdown: Shutdown) -> int:
    rows: list[Row] = []
    skipped: list[str] = []
    with shutdown.cancelling() as trying, tempfile.TemporaryDirectory(prefix="trio-mcp-") as path:
        place = Place(path)
        for name, trial in TRIALS.items():
            if not features().transports[trial.transport]:
                continue
            if trial.encrypted and not features().extras["tls"]:
                skipped.append(name)
                continue
            note(f"trying {name}")
            rows.append(await _try(name, trial, place))
    note("")
    if skipped:
        tell(f"not tried: {', '.join(skipped)}; pip install 'trio-mcp-transport[tls]'")
    if trying.cancelled_caught:
        return ExitStatus.FAILED
    _print_rows(rows, as_json=as_json)
    return ExitStatus.OK if all(row.ok for row in rows) else ExitStatus.FAILED


def _print_rows(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        print_text(msgspec.json.encode(rows).decode())
        return
    table = [
        (
            row.transport,
            "ok" if row.ok else "failed",
            "-" if row.round_trip_us is None else f"{row.round_trip_us:,.0f} us",
            "-" if row.messages_per_s is None else f"{row.messages_per_s:,.0f}",
        )
        for row in rows
    ]
    print_table(
        "MCP over every transport of this machine",
        ("transport", "outcome", "round trip", "messages/s"),
        table,
    )
    for row in rows:
        if row.error is not None:
            print_text(f"{row.transport}: {row.error}")


# -- one transport -----------------------------------------------------------------------


async def _try(name: str, trial: Trial, place: Place) -> Row:
    """Hold the conversation; whatever goes wrong is this row's error, not the others'."""
    round_trip: float | None = None
    rate: float | None = None
    try:
        with trio.fail_after(TRANSPORT_SECONDS):
            endpoint = trial.make_endpoint(place)
            if isinstance(endpoint, ProcessEndpoint):
                round_trip, rate = await _talk(endpoint, trial.eras)
            else:
                round_trip, rate = await _serve_and_talk(endpoint, trial, place)
    except Exception as error:
        lone = lone_exception(error)
        return Row(name, False, None, None, str(lone) or type(lone).__name__)
    return Row(name, True, round(round_trip * 1e6, 1), round(rate, 1), None)


async def _serve_and_talk(endpoint: Endpoint, trial: Trial, place: Place) -> tuple[float, float]:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        (bound,) = await nursery.start(
            partial(serve_channels, BuiltinServer().serve, endpoint, stop=stop)
        )
        measured = await _talk(trial.reach(bound, place), trial.eras)
        stop.set()
    return measured


async def _talk(endpoint: Endpoint, eras: Sequence[Era]) -> tuple[float, float]:
    """The conversation in each era; returns round trip and messages per second."""
    for era in eras[:-1]:
        async with open_peer(endpoint, era=era) as peer:
            await converse(peer)
    async with open_peer(endpoint, era=eras[-1]) as peer:
        await converse(peer)
        return await _measure_round_trip(peer), await _measure_rate(peer)


class _Text(msgspec.Struct):
    text: str = ""


class _CallResult(msgspec.Struct):
    content: list[_Text]
    isError: bool = False  # ruff: ignore[mixed-case-variable-in-class-scope] (the wire's name)


async def converse(peer: Peer) -> None:
    """Use everything that the built-in server has.

    Raises:
        DemoFailed: It did not do what it should.
        TransportError: The conversation failed.
    """
    listed = await peer.request("tools/list", result_type=dict[str, object])
    tools = msgspec.convert(listed["tools"], list[dict[str, object]])
    _check({tool["name"] for tool in tools} == {"echo", "add", "slow", "large"}, "tools/list")
    _check(await _call(peer, "echo", text="grüß dich") == "grüß dich", "echo")
    _check(await _call(peer, "add", a=2, b=40) == "42", "add")
    _check(len(await _call(peer, "large", size=200_000)) == 200_000, "large")
    try:
        await _call(peer, "nonsense")
    except RpcError as error:
        _check(error.code == -32602, "an unknown tool")
    else:
        _check(False, "an unknown tool")
    await peer.request("prompts/get", {"name": PROMPT_NAME, "arguments": {"name": "you"}})
    await _check_progress(peer)
    await _check_cancel(peer)


async def _check_progress(peer: Peer) -> None:
    seen: list[float] = []
    await peer.request(
        "tools/call",
        {"name": "slow", "arguments": {"seconds": 0.02, "steps": 4}},
        on_progress=lambda progress: seen.append(progress.progress),
    )
    _check(seen == [1, 2, 3, 4], "progress")


async def _check_cancel(peer: Peer) -> None:
    """Cancel a call that would take an hour, and see that the server has stopped it."""
    before = await _status(peer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                peer.request,
                "tools/call",
                {"name": "slow", "arguments": {"seconds": 3600, "steps": 1}},
                timeout=math.inf,
            )
        )
        while (await _status(peer))["slowRunning"] == before["slowRunning"]:
            pass
        nursery.cancel_scope.cancel()
    while (await _status(peer))["slowRunning"] > before["slowRunning"]:
        pass
    after = await _status(peer)
    _check(after["slowCancelled"] == before["slowCancelled"] + 1, "cancel")


async def _status(peer: Peer) -> dict[str, int]:
    result = await peer.request(
        "resources/read", {"uri": RESOURCE_URI}, result_type=dict[str, object]
    )
    (content,) = msgspec.convert(result["contents"], list[_Text])
    return msgspec.json.decode(content.text, type=dict[str, int])


async def _call(peer: Peer, name: str, **arguments: object) -> str:
    result = await peer.request(
        "tools/call", {"name": name, "arguments": arguments}, result_type=_CallResult
    )
    _check(not result.isError, name)
    return result.content[0].text


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise DemoFailed(f"{what}: the server did not do what it should")


_ECHO = {"name": "echo", "arguments": {"text": "x" * 60}}


async def _measure_round_trip(peer: Peer) -> float:
    taken: list[float] = []
    for _ in range(ROUND_TRIPS):
        begun = trio.current_time()
        await peer.request("tools/call", _ECHO)
        taken.append(trio.current_time() - begun)
    return statistics.median(taken)


async def _measure_rate(peer: Peer) -> float:
    async def ask(count: int) -> None:
        for _ in range(count):
            await peer.request("tools/call", _ECHO)

    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(CONCURRENT):
            nursery.start_soon(ask, THROUGHPUT_REQUESTS // CONCURRENT)
    return 2 * THROUGHPUT_REQUESTS / (trio.current_time() - begun)
