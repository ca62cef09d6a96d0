"""What is to be measured: the cases that something is promised of, and others on demand."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from trio_mcp_transport import features
from trio_mcp_transport.cli.bench import available
from trio_mcp_transport.cli.bench.available import (
    TooFewDescriptors,
    allow_descriptors,
    http_engine,
    takes_part,
)
from trio_mcp_transport.cli.bench.cases import (
    OVER_HTTP,
    TRANSPORTS,
    WORKS,
    Case,
    Work,
    describe_size,
    own_transport,
)
from trio_mcp_transport.cli.bench.plan import GRID_CONNECTIONS, GRID_PAYLOADS, find_case, plan
from trio_mcp_transport.cli.bench.results import describe_budget

pytestmark = pytest.mark.bench


def test_the_plan_has_every_work_and_transport() -> None:
    cases = plan()
    assert {case.work for case in cases} >= set(WORKS) - {"memory-idle", "memory-growth"}
    assert {case.transport for case in cases} >= {"stdio", "tcp", "memory", "none"}
    assert len(set(cases)) == len(cases)


@pytest.mark.parametrize("grid", [False, True])
def test_every_case_has_a_label_of_its_own(grid: bool) -> None:
    cases = plan(grid=grid)
    assert len({case.label for case in cases}) == len(cases)


def test_a_label_says_what_is_not_the_usual() -> None:
    labels = {case.label for case in plan(grid=True)}
    assert {
        "round-trip tcp",
        "round-trip tcp 64 KiB",
        "one-way stdio 1 MB",
        "many-clients http 4 KiB x256",
    } <= labels
    assert [describe_size(size) for size in (150, 4096, 5000, 1_000_000, 2_000_000)] == [
        "150 B",
        "4 KiB",
        "5,000 B",
        "1 MB",
        "2 MB",
    ]


def test_a_budget_is_on_every_wire_and_on_none_that_has_no_wire() -> None:
    for case in plan():
        # Large messages are what shared memory is for.
        promised = case.payload_bytes <= 150 or case.work == "stream-round-trip"
        assert bool(describe_budget(case)) == (promised and case.transport != "memory")


def test_works_and_transports_narrow_the_plan() -> None:
    def chosen(*only: str) -> set[tuple[Work, str]]:
        return {(case.work, case.transport) for case in plan(only)}

    assert chosen("one-way", "tcp") == {("one-way", "tcp")}
    assert chosen("one-way", "round-trip", "tcp", "memory") == {
        (work, transport) for work in ("one-way", "round-trip") for transport in ("tcp", "memory")
    }
    assert {work for work, _ in chosen("import")} == {"import"}
    assert {transport for _, transport in chosen("memory")} == {"memory"}
    assert chosen("import", "tcp") == set()
    assert len(plan(TRANSPORTS)) < len(plan())


def test_what_lies_over_another_transport_is_held_against_that_and_shown_beside_others() -> None:
    found = {case.transport: case for case in plan(["round-trip"])}
    if features().extras["tls"]:
        assert found["tls"].own == found["ws"].own == found["tls"].against == "own tcp"
        assert (found["wss"].own, found["https"].own) == ("own ws", "own http")
        assert "trio.SSLStream" in found["tls"].contestants
    assert {"trio-websocket", "websockets.trio"} <= set(found["ws"].contestants)
    assert found["tcp"].against == "floor"
    assert found["sse+http"].own == "own http"
    assert own_transport("own ws") == "ws"
    assert own_transport("ours") is own_transport("own h11") is None


def test_who_is_not_installed_does_not_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio_websocket", None)
    monkeypatch.setitem(sys.modules, "websockets", None)
    monkeypatch.setitem(sys.modules, "websockets.trio", None)
    assert not takes_part("trio-websocket")
    assert not takes_part("websockets.trio")
    assert takes_part("ours")
    assert takes_part("trio.SSLStream")


def test_without_the_extra_nothing_is_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(features(), extras={"tls": False})
    monkeypatch.setattr(available, "features", lambda: here)
    assert not {case.transport for case in plan()} & {"tls", "wss", "https"}
    assert not {case.transport for case in plan(grid=True)} & {"tls", "wss", "https"}


# -- The engine of HTTP --------------------------------------------------------------------


def clients_over_http() -> Case:
    case = find_case("many-clients", "http", 150, 16)
    assert case is not None
    return case


def test_more_is_promised_of_http_with_the_fast_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httptools", reason="the extra `speedups` is not installed")
    monkeypatch.setenv("TRIO_MCP_HTTP1_ENGINE", "")
    assert http_engine() == "httptools"
    assert takes_part("own h11")
    budget = ">= 1.5 floor, >= 8 sdk, >= 15000 msg/s or 3 own h11"
    assert describe_budget(clients_over_http()) == budget


def test_with_h11_it_is_not_held_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_MCP_HTTP1_ENGINE", "h11")
    assert http_engine() == "h11"
    assert not takes_part("own h11")
    assert describe_budget(clients_over_http()) == ">= 0.6 floor"


# -- The grid ------------------------------------------------------------------------------


def test_the_grid_has_every_size_and_number_over_every_transport_that_can() -> None:
    cases = plan(grid=True)
    for transport in {case.transport for case in plan(["round-trip"])} - {"memory"}:
        here = [case for case in cases if case.transport == transport]
        sizes = {case.payload_bytes for case in here if case.work == "round-trip"}
        assert sizes == set(GRID_PAYLOADS)
        rates = {case.payload_bytes for case in here if case.work == "one-way"}
        assert rates == (set() if transport in OVER_HTTP else set(GRID_PAYLOADS))
        numbers = {case.connections for case in here}
        assert numbers == ({1} if transport == "stdio" else set(GRID_CONNECTIONS))
    assert {case.transport for case in cases} <= {*TRANSPORTS} - {"memory"}


def test_the_grid_leaves_out_what_needs_too_much_memory_unless_it_is_asked_for() -> None:
    def has_most(cases: list[Case]) -> bool:
        return any((case.payload_bytes, case.connections) == (1_000_000, 256) for case in cases)

    assert not has_most(plan(grid=True))
    assert not has_most(plan(payloads=[1_000_000], grid=True))
    assert has_most(plan(payloads=[1_000_000], connections=[256]))


def test_a_cell_that_something_is_promised_of_has_its_budget_and_everybody() -> None:
    cases = plan(grid=True)
    assert clients_over_http() in cases
    assert find_case("round-trip", "stdio", 150, 1) in cases


def test_sizes_and_numbers_are_taken_as_they_are_given() -> None:
    def chosen(
        payloads: Sequence[int] = (), connections: Sequence[int] = ()
    ) -> set[tuple[str, int, int]]:
        cases = plan(["tcp"], payloads=payloads, connections=connections)
        return {(case.work, case.payload_bytes, case.connections) for case in cases}

    assert chosen(payloads=[5000]) == {("round-trip", 5000, 1), ("one-way", 5000, 1)}
    assert chosen(connections=[7]) == {("many-clients", 150, 7)}
    assert chosen(payloads=[300, 300], connections=[7, 1]) == {
        ("round-trip", 300, 1),
        ("one-way", 300, 1),
        ("many-clients", 300, 7),
    }


def test_other_works_are_measured_with_a_size_if_they_are_named() -> None:
    def chosen(*only: str, payload: int = 4096, connections: int = 1) -> set[str]:
        cases = plan(only, payloads=[payload], connections=[connections])
        return {case.label for case in cases}

    assert chosen("peer-round-trip", "tcp") == {"peer-round-trip tcp 4 KiB"}
    assert chosen("one-way-batched", "tcp", "http") == {"one-way-batched tcp 4 KiB"}
    assert chosen("one-way-batched", "tcp", payload=65_536) == set()  # more than an outbox takes
    assert chosen("stream-round-trip") <= {"stream-round-trip shm 4 KiB"}
    assert chosen("import") == chosen("memory") == set()
    assert chosen("stdio", connections=16) == set()
    if sys.platform == "linux":
        assert chosen("memory-idle", "tcp", connections=30) == {"memory-idle tcp x30"}


def test_a_case_is_found_by_what_it_is() -> None:
    large = find_case("round-trip", "unix", 65_536, 1)
    assert large is not None
    assert large.label == "round-trip unix 64 KiB"
    assert find_case("many-clients", "stdio", 150, 16) is None
    assert find_case("sse-stream", "tcp", 150, 1) is None


# -- Descriptors ---------------------------------------------------------------------------


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """The limits of a process that is not this one."""
    resource = pytest.importorskip("resource", reason="this system has no such limits")
    found = {"now": (100, 1000)}

    def set_limits(which: int, value: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        found["now"] = value

    monkeypatch.setattr(resource, "getrlimit", lambda _: found["now"])
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    return found


def test_a_process_may_open_what_its_connections_need(
    limits: dict[str, tuple[int, int]],
) -> None:
    import resource

    allow_descriptors("tcp", 16)
    assert limits["now"] == (100, 1000)
    allow_descriptors("tcp", 256)
    soft, hard = limits["now"]
    assert 256 < soft < hard == 1000
    limits["now"] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    allow_descriptors("tcp", 100_000)
    assert limits["now"][0] == resource.RLIM_INFINITY


def test_shared_memory_needs_more_of_them(limits: dict[str, tuple[int, int]]) -> None:
    allow_descriptors("shm", 200)
    assert limits["now"][0] > 800


def test_where_the_system_does_not_allow_them_it_says_how_many(
    limits: dict[str, tuple[int, int]],
) -> None:
    with pytest.raises(TooFewDescriptors, match=r"1,000 connections need 1,064 .* allows .* 1,000"):
        allow_descriptors("tcp", 1000)
    assert limits["now"] == (100, 1000)
