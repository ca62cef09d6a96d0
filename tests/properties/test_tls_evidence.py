"""Whatever a server staples or puts into its certificate is judged, and nothing is raised."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from ct_logs import Log, log_list

from trio_mcp_transport.errors import ConfigurationError
from trio_mcp_transport.security.ocsp import StaplePolicy
from trio_mcp_transport.security.staples import read_staple
from trio_mcp_transport.security.transparency import TransparencyPolicy
from trio_mcp_transport.testing import CertificateAuthority
from trio_mcp_transport.tls_pins import format_pin, parse_pin

pytestmark = [pytest.mark.properties, pytest.mark.tls]

NOW = 1_900_000_000.0
AUTHORITY = CertificateAuthority.create(not_before=NOW - 1e6, not_after=NOW + 1e6)
LEAF = AUTHORITY.issue_server("a.example", not_before=NOW - 1e6, not_after=NOW + 1e6)
RESPONDER = AUTHORITY.issue_responder(not_before=NOW - 1e6, not_after=NOW + 1e6)
STAPLE = AUTHORITY.ocsp_response(
    LEAF, "revoked", this_update=NOW - 1e5, next_update=NOW + 1e5, responder=RESPONDER
)
LOGS = [Log("a", "A"), Log("b", "B")]
LISTED = log_list(*LOGS)


@st.composite
def changed(draw: st.DrawFn, genuine: bytes) -> bytes:
    """Something genuine of which some pieces were replaced."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(genuine)))
        end = min(len(genuine), start + draw(st.integers(0, 8)))
        genuine = genuine[:start] + draw(st.binary(max_size=8)) + genuine[end:]
    return genuine


@given(st.one_of(st.binary(max_size=100), changed(STAPLE)))
def test_no_change_makes_a_revoked_certificate_good(staple: bytes) -> None:
    policy = StaplePolicy("require")
    outcome = policy.check(staple, LEAF.certificate, AUTHORITY.certificate, NOW)
    assert not outcome.accepted
    assert outcome.reason


@given(st.one_of(st.binary(max_size=100), changed(STAPLE)))
def test_a_server_reads_a_response_or_says_that_it_is_none(staple: bytes) -> None:
    try:
        read = read_staple(staple)
    except ConfigurationError:
        return
    assert read.answers
    assert read.encoded == staple


@given(st.binary(max_size=300))
def test_whatever_stands_where_timestamps_belong_vouches_for_nothing(content: bytes) -> None:
    leaf = AUTHORITY.issue_server("a.example", sct_list=lambda *_: content)
    policy = TransparencyPolicy.load(LISTED)
    assert not policy.check(leaf.certificate, AUTHORITY.certificate, (), NOW).accepted


@given(st.one_of(st.binary(max_size=100), changed(LISTED)))
def test_a_log_list_is_read_or_refused(content: bytes) -> None:
    with suppress(ConfigurationError):
        TransparencyPolicy.load(content)


@given(st.binary(min_size=32, max_size=32))
def test_every_digest_has_a_pin_that_is_read_again(digest: bytes) -> None:
    pin = format_pin(digest)
    forms = [pin, pin.rstrip("="), pin[7:], pin.replace("/", "//", 1)]
    forms += [digest.hex(), digest.hex(":")]
    assert {parse_pin(form) for form in forms} == {digest}


@given(st.text(max_size=100))
def test_a_text_is_a_pin_or_refused(text: str) -> None:
    with suppress(ConfigurationError):
        assert len(parse_pin(text)) == 32
