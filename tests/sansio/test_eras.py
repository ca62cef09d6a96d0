"""The tables of eras and versions, both sides."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import UNSET, Raw

from trio_mcp_transport.errors import ConfigurationError, RpcError
from trio_mcp_transport.sansio.eras import (
    LEGACY_REVISIONS,
    MODERN_REVISIONS,
    REVISIONS,
    Discovery,
    GiveUp,
    Initialize,
    Probe,
    UseModern,
    Verdict,
    check_revisions,
    choose_legacy,
    era_of,
    first_step,
    judge_request,
    mutual_revision,
    next_step,
    read_discovery,
    refuse_initialize,
)
from trio_mcp_transport.sansio.metadata import RequestMeta, read_meta

pytestmark = pytest.mark.sansio

MODERN = "2026-07-28"
LATEST_LEGACY = "2025-11-25"
KEY = "io.modelcontextprotocol/"


def meta(version: str | None = MODERN, *, capabilities: bool = True) -> RequestMeta:
    fields: dict[str, object] = {}
    if version is not None:
        fields[KEY + "protocolVersion"] = version
    if capabilities:
        fields[KEY + "clientCapabilities"] = {}
    return read_meta(Raw(msgspec.json.encode({"_meta": fields})))


NO_META = read_meta(UNSET)


@pytest.mark.parametrize("method", ["tools/call", "initialize", "ping", "logging/setLevel"])
@pytest.mark.parametrize("session", [None, LATEST_LEGACY])
def test_a_served_version_in_the_metadata_is_modern_whatever_the_method(
    method: str, session: str | None
) -> None:
    verdict = judge_request(method, meta(), revisions=REVISIONS, session_revision=session)
    assert verdict == Verdict("modern", MODERN)


@pytest.mark.parametrize("version", ["1900-01-01", "2099-01-01", LATEST_LEGACY, ""])
def test_another_version_in_the_metadata_is_refused_with_what_is_served(version: str) -> None:
    with pytest.raises(RpcError) as caught:
        judge_request("x", meta(version), revisions=REVISIONS, session_revision=None)
    assert caught.value.code == -32022
    assert caught.value.data == {"supported": list(REVISIONS), "requested": version}


def test_the_version_is_judged_before_the_other_required_keys() -> None:
    with pytest.raises(RpcError) as caught:
        judge_request(
            "x", meta("1900-01-01", capabilities=False), revisions=REVISIONS, session_revision=None
        )
    assert caught.value.code == -32022


@pytest.mark.parametrize(
    ("revisions", "given"),
    [
        (REVISIONS, meta(capabilities=False)),
        (REVISIONS, meta(None)),
        (REVISIONS, NO_META),
        (MODERN_REVISIONS, NO_META),
        (LEGACY_REVISIONS, NO_META),
        (LEGACY_REVISIONS, meta()),
    ],
)
def test_a_request_without_its_metadata_or_a_handshake_is_invalid(
    revisions: tuple[str, ...], given: RequestMeta
) -> None:
    with pytest.raises(RpcError) as caught:
        judge_request("tools/list", given, revisions=revisions, session_revision=None)
    assert caught.value.code == -32602


def test_after_the_handshake_requests_without_a_version_are_legacy() -> None:
    verdict = judge_request(
        "tools/list", NO_META, revisions=REVISIONS, session_revision="2025-06-18"
    )
    assert verdict == Verdict("legacy", "2025-06-18")


def test_before_the_handshake_only_initialize_and_ping_pass() -> None:
    def judge(method: str, *, strict: bool = True) -> Verdict:
        return judge_request(
            method,
            NO_META,
            revisions=REVISIONS,
            session_revision=None,
            require_initialize=strict,
        )

    assert judge("initialize") == Verdict("legacy", None)
    assert judge("ping") == Verdict(None, None)
    assert judge("tools/list", strict=False) == Verdict("legacy", LATEST_LEGACY)


def test_a_legacy_only_server_never_seems_modern() -> None:
    for method in ("server/discover", "tools/list"):
        verdict = judge_request(
            method, meta(), revisions=LEGACY_REVISIONS, session_revision=LATEST_LEGACY
        )
        assert verdict == Verdict("legacy", LATEST_LEGACY)


@pytest.mark.parametrize(
    ("requested", "revisions", "chosen"),
    [
        ("2025-06-18", REVISIONS, "2025-06-18"),
        ("1900-01-01", REVISIONS, LATEST_LEGACY),
        (MODERN, REVISIONS, LATEST_LEGACY),
        (LATEST_LEGACY, ("2025-03-26", "2024-11-05"), "2025-03-26"),
        (LATEST_LEGACY, MODERN_REVISIONS, None),
    ],
)
def test_the_answer_to_initialize(
    requested: str, revisions: tuple[str, ...], chosen: str | None
) -> None:
    assert choose_legacy(requested, revisions) == chosen


def test_a_modern_only_server_names_its_versions_to_initialize() -> None:
    error = refuse_initialize(LATEST_LEGACY, MODERN_REVISIONS)
    assert error.code == -32022
    assert MODERN in error.message
    assert error.data == {"supported": [MODERN], "requested": LATEST_LEGACY}


def test_revisions_are_known_sorted_and_not_none() -> None:
    assert check_revisions(["2024-11-05", MODERN, "2024-11-05"]) == (MODERN, "2024-11-05")
    for wrong in ([], ["1900-01-01"]):
        with pytest.raises(ConfigurationError):
            check_revisions(wrong)
    assert [era_of(revision) for revision in (MODERN, LATEST_LEGACY, "x")] == [
        "modern",
        "legacy",
        None,
    ]


# -- the client's side --------------------------------------------------------------


def unsupported(*versions: str) -> RpcError:
    return RpcError(-32022, "no", {"supported": list(versions), "requested": MODERN})


@pytest.mark.parametrize(
    ("revisions", "step"),
    [
        (REVISIONS, Probe(MODERN)),
        (MODERN_REVISIONS, Probe(MODERN)),
        (LEGACY_REVISIONS, Initialize(LATEST_LEGACY)),
        (("2025-03-26",), Initialize("2025-03-26")),
    ],
)
def test_the_first_step(revisions: tuple[str, ...], step: object) -> None:
    assert first_step(revisions) == step


@pytest.mark.parametrize(
    ("answer", "revisions", "step"),
    [
        (Discovery([MODERN]), REVISIONS, UseModern(MODERN)),
        (Discovery(["2099-01-01", LATEST_LEGACY, MODERN]), REVISIONS, UseModern(MODERN)),
        (Discovery(["2025-06-18", "2025-03-26"]), REVISIONS, Initialize("2025-06-18")),
        (unsupported("2025-06-18"), REVISIONS, Initialize("2025-06-18")),
        (RpcError(-32601, "no"), REVISIONS, Initialize(LATEST_LEGACY)),
        (RpcError(-32602, "no"), REVISIONS, Initialize(LATEST_LEGACY)),
        (RpcError(-32001, "a draft's code"), REVISIONS, Initialize(LATEST_LEGACY)),
        (RpcError(-32004, "a draft's code"), REVISIONS, Initialize(LATEST_LEGACY)),
        (None, REVISIONS, Initialize(LATEST_LEGACY)),
        (None, (MODERN, "2024-11-05"), Initialize("2024-11-05")),
        (RpcError(-32021, "needs sampling"), REVISIONS, UseModern(MODERN)),
        (RpcError(-32020, "headers"), REVISIONS, UseModern(MODERN)),
    ],
)
def test_what_follows_from_the_answer_to_a_probe(
    answer: Discovery | RpcError | None, revisions: tuple[str, ...], step: object
) -> None:
    assert next_step(Probe(MODERN), answer, revisions) == step


@pytest.mark.parametrize(
    ("answer", "revisions"),
    [
        (Discovery(["2099-01-01"]), REVISIONS),
        (Discovery([LATEST_LEGACY]), MODERN_REVISIONS),
        (Discovery([]), REVISIONS),
        (unsupported("2099-01-01"), REVISIONS),
        (RpcError(-32022, "no list"), REVISIONS),
        (RpcError(-32022, "no list", {"supported": "x"}), REVISIONS),
        (RpcError(-32601, "no"), MODERN_REVISIONS),
        (None, MODERN_REVISIONS),
    ],
)
def test_where_nothing_is_in_common_the_client_gives_up(
    answer: Discovery | RpcError | None, revisions: tuple[str, ...]
) -> None:
    assert isinstance(next_step(Probe(MODERN), answer, revisions), GiveUp)


def test_a_server_that_refuses_what_it_names_is_asked_again() -> None:
    assert next_step(Probe(MODERN), unsupported(MODERN), REVISIONS) == Probe(MODERN)


@pytest.mark.parametrize(
    ("error", "revision"),
    [
        (unsupported("2099-01-01", MODERN), MODERN),
        (unsupported("2099-01-01"), None),
        (unsupported(LATEST_LEGACY), None),  # there one begins with a handshake
        (RpcError(-32602, "no", {"supported": [MODERN]}), None),
        (RpcError(-32022, "no", "nothing"), None),
    ],
)
def test_what_a_refused_request_is_sent_again_with(error: RpcError, revision: str | None) -> None:
    assert mutual_revision(error, REVISIONS) == revision
    assert mutual_revision(error, LEGACY_REVISIONS) is None


def test_a_modern_server_s_refusal_of_initialize_leads_back_to_it() -> None:
    sent = Initialize(LATEST_LEGACY)
    assert next_step(sent, unsupported(MODERN), REVISIONS) == Probe(MODERN)
    assert isinstance(next_step(sent, RpcError(-32603, "no"), REVISIONS), GiveUp)
    assert isinstance(next_step(sent, unsupported(MODERN), LEGACY_REVISIONS), GiveUp)


def test_what_is_no_discover_result() -> None:
    found = read_discovery(Raw(b'{"supportedVersions":["a"],"capabilities":{"x":1},"more":2}'))
    assert found == Discovery(["a"], {"x": 1})
    for wrong in (b"{}", b"[]", b'{"supportedVersions":"a"}', b'{"tools":[]}'):
        assert read_discovery(Raw(wrong)) is None
