"""Certificate Transparency: whose signatures count, and how many are enough."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from typing import TypedDict

import pytest

pytest.importorskip("cryptography")

import ocsp_wire
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.certificate_transparency import SignedCertificateTimestamp
from ct_logs import (
    Log,
    certificate_entry,
    log_list,
    precertificate_entry,
    shown,
    signed_by,
    timestamp_list,
)

from trio_mcp_transport import ConfigurationError, TransparencyMode
from trio_mcp_transport.security.ocsp import StaplePolicy
from trio_mcp_transport.security.transparency import (
    TransparencyOutcome,
    TransparencyPolicy,
)
from trio_mcp_transport.testing.certificates import CertificateAuthority, IssuedCertificate

pytestmark = [pytest.mark.security, pytest.mark.tls]

NOW = 1_900_000_000.0
DAY = 86_400.0


class Lifetime(TypedDict):
    not_before: float
    not_after: float


YEARS = Lifetime(not_before=NOW - 1000 * DAY, not_after=NOW + 1000 * DAY)
AUTHORITY = CertificateAuthority.create(**YEARS)
SIGNED = NOW - 100 * DAY

A1, A2, B1, B2 = Log("a1", "A"), Log("a2", "A"), Log("b1", "B"), Log("b2", "B")
PLAIN = AUTHORITY.issue_server("a.example", **YEARS)


def known_to(*logs: Log, moment: float = SIGNED) -> IssuedCertificate:
    """A certificate with SCTs of these logs in it."""
    scts = signed_by(*logs, moment=moment)
    return AUTHORITY.issue_server("a.example", sct_list=scts, **YEARS)


def judge(
    leaf: IssuedCertificate,
    *logs: Log,
    mode: TransparencyMode = "require",
    min_logs: int = 2,
    min_operators: int = 2,
    issuer: x509.Certificate | None = AUTHORITY.certificate,
    stapled: Sequence[SignedCertificateTimestamp] = (),
) -> TransparencyOutcome:
    # A log that never signs keeps short lists from being refused as such.
    known = log_list(*(logs or (A1, A2, B1, B2)), Log("idle", "C"), Log("idle too", "D"))
    policy = TransparencyPolicy.load(
        known, mode=mode, min_logs=min_logs, min_operators=min_operators
    )
    return policy.check(leaf.certificate, issuer, stapled, NOW)


# -- how many ------------------------------------------------------------------------


def test_enough_logs_of_enough_operators_are_accepted() -> None:
    assert judge(known_to(A1, B1)) == TransparencyOutcome(
        accepted=True, logs=("a1", "b1"), operators=("A", "B")
    )


def test_too_few_logs_are_refused() -> None:
    outcome = judge(known_to(A1, B1), min_logs=3)
    assert not outcome.accepted
    assert outcome.logs == ("a1", "b1")
    assert outcome.reason == ("2 logs of 2 operators vouch for it, and 3 of 2 are asked for")


def test_logs_of_one_operator_are_one_opinion() -> None:
    outcome = judge(known_to(A1, A2))
    assert not outcome.accepted
    assert outcome.operators == ("A",)
    assert judge(known_to(A1, A2), min_operators=1).accepted


def test_a_log_that_signs_twice_counts_once() -> None:
    outcome = judge(known_to(A1, A1, B1, B1), min_logs=3)
    assert not outcome.accepted
    assert outcome.logs == ("a1", "b1")


def test_what_is_only_reported_is_accepted_with_a_reason() -> None:
    outcome = judge(PLAIN, mode="report")
    assert outcome.accepted
    assert outcome.reason.startswith("0 logs of 0 operators")


def test_a_certificate_without_any_is_refused() -> None:
    assert not judge(PLAIN).accepted
    assert not judge(PLAIN, min_logs=1, min_operators=1).accepted


# -- whose ---------------------------------------------------------------------------


def test_a_log_that_is_not_listed_does_not_count() -> None:
    outcome = judge(known_to(A1, B1), A1)
    assert not outcome.accepted
    assert outcome.ignored == ("one is of a log that is not on the list",)
    assert "(one is of a log that is not on the list)" in outcome.reason


def test_a_log_that_signed_another_certificate_does_not_count() -> None:
    entry = precertificate_entry(PLAIN.certificate, AUTHORITY.certificate)
    foreign = AUTHORITY.issue_server(
        "b.example",
        sct_list=lambda *_: timestamp_list([A1.sign(entry, SIGNED), B1.sign(entry, SIGNED)]),
        **YEARS,
    )
    outcome = judge(foreign)
    assert not outcome.accepted
    assert outcome.ignored == ("a1 did not sign this", "b1 did not sign this")


def test_a_changed_time_does_not_count() -> None:
    def make(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        entry = precertificate_entry(certificate, issuer)
        timestamps = []
        for log in (A1, B1):
            changed = bytearray(log.sign(entry, SIGNED))
            changed[1 + 32 + 7] ^= 1  # a millisecond
            timestamps.append(bytes(changed))
        return timestamp_list(timestamps)

    assert not judge(AUTHORITY.issue_server("a.example", sct_list=make, **YEARS)).accepted


def test_a_change_of_any_byte_is_noticed() -> None:
    def make(position: int, certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        entry = precertificate_entry(certificate, issuer)
        scts = bytearray(timestamp_list([A1.sign(entry, SIGNED), B1.sign(entry, SIGNED)]))
        if position < len(scts):
            scts[position] ^= 1
        return bytes(scts)

    size = len(make(9999, PLAIN.certificate, AUTHORITY.certificate))
    for position in range(size - 4):  # signatures differ in length by a byte or two
        leaf = AUTHORITY.issue_server("a.example", sct_list=partial(make, position), **YEARS)
        assert not judge(leaf).accepted, position
    assert judge(
        AUTHORITY.issue_server("a.example", sct_list=partial(make, 9999), **YEARS)
    ).accepted


def test_the_issuers_key_is_part_of_what_was_signed() -> None:
    other = CertificateAuthority.create(**YEARS)
    outcome = judge(known_to(A1, B1), issuer=other.certificate)
    assert outcome.ignored == ("a1 did not sign this", "b1 did not sign this")


def test_without_an_issuer_what_is_in_the_certificate_does_not_count() -> None:
    outcome = judge(known_to(A1, B1), issuer=None)
    assert not outcome.accepted
    assert "its issuer is not known" in outcome.reason


def test_extensions_are_part_of_what_was_signed_and_milliseconds_count() -> None:
    def make(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        entry = precertificate_entry(certificate, issuer)
        return timestamp_list([
            A1.sign(entry, SIGNED + 0.001, extensions=b"some"),
            B1.sign(entry, SIGNED + 0.999, extensions=b"more"),
        ])

    assert judge(AUTHORITY.issue_server("a.example", sct_list=make, **YEARS)).accepted


def test_rsa_logs_count() -> None:
    log = Log("r", "R", key=rsa.generate_private_key(65537, 2048))
    assert judge(known_to(A1, log), A1, log).logs == ("a1", "r")
    assert not judge(known_to(A1, log, moment=NOW + 1), A1, log).accepted


def test_a_log_that_signs_otherwise_than_logs_may_does_not_count() -> None:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    log = Log("e", "E")
    log.key = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    log.log_id = hashlib.sha256(log.key).digest()
    assert judge(known_to(A1, log), A1, log).ignored == ("e did not sign this",)


def test_unreadable_ones_are_none() -> None:
    broken = AUTHORITY.issue_server("a.example", sct_list=lambda *_: b"\0\5\0\1x", **YEARS)
    assert not judge(broken).accepted


def test_only_the_first_of_very_many_are_looked_at() -> None:
    def make(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        entry = precertificate_entry(certificate, issuer)
        strangers = [Log("x", "X").sign(entry, SIGNED)] * 100
        return timestamp_list([*strangers, A1.sign(entry, SIGNED), B1.sign(entry, SIGNED)])

    outcome = judge(AUTHORITY.issue_server("a.example", sct_list=make, **YEARS))
    assert not outcome.accepted
    assert len(outcome.ignored) == 20


# -- when ----------------------------------------------------------------------------


@pytest.mark.parametrize(("moment", "good"), [(NOW, True), (NOW + 0.001, False)])
def test_a_signature_of_the_future_does_not_count(moment: float, good: bool) -> None:
    outcome = judge(known_to(A1, B1, moment=moment))
    assert outcome.accepted is good
    assert outcome.ignored == (
        () if good else ("a1 signed in the future", "b1 signed in the future")
    )


@pytest.mark.parametrize("state", ["usable", "qualified", "readonly"])
def test_logs_that_browsers_trust_count(state: str) -> None:
    log = Log("s", "S", state=state, since=NOW)
    assert judge(known_to(A1, log), A1, log).accepted


@pytest.mark.parametrize("state", ["pending", "rejected", "sunset"])
def test_logs_that_browsers_do_not_trust_do_not_count(state: str) -> None:
    log = Log("s", "S", state=state)
    outcome = judge(known_to(A1, log), A1, log)
    assert outcome.ignored == ("s is not one that browsers trust",)


@pytest.mark.parametrize(("since", "good"), [(SIGNED + 1, True), (SIGNED, False)])
def test_a_retired_log_counts_for_what_it_signed_before(since: float, good: bool) -> None:
    log = Log("r", "R", state="retired", since=since)
    outcome = judge(known_to(A1, log), A1, log)
    assert outcome.accepted is good
    assert outcome.ignored == (() if good else ("r was retired before it signed",))


def test_one_log_at_least_must_still_be_there() -> None:
    logs = [Log(name, name, state="retired", since=NOW) for name in "xy"]
    outcome = judge(known_to(*logs), *logs)
    assert not outcome.accepted
    assert outcome.reason == "all logs that vouch for it have been retired"


@pytest.mark.parametrize(
    ("start", "end", "good"),
    [
        (YEARS["not_after"], YEARS["not_after"] + 1, True),
        (YEARS["not_after"] - DAY, YEARS["not_after"], False),
        (YEARS["not_after"] + 1, YEARS["not_after"] + DAY, False),
    ],
)
def test_a_log_for_certificates_that_end_at_other_times_does_not_count(
    start: float, end: float, good: bool
) -> None:
    interval = {"start_inclusive": shown(start), "end_exclusive": shown(end)}
    log = Log("t", "T", facts={"temporal_interval": interval})
    assert judge(known_to(A1, log), A1, log).accepted is good


def test_a_log_that_changed_hands_counts_for_who_had_it_then() -> None:
    former = [
        {"name": "Later", "end_time": shown(NOW)},
        {"name": "A", "end_time": shown(SIGNED + 1)},
    ]
    log = Log("moved", "M", facts={"previous_operators": former})
    outcome = judge(known_to(A1, log), A1, log)
    assert outcome.operators == ("A",)
    assert not outcome.accepted
    assert judge(known_to(A1, log, moment=SIGNED + 1), A1, log).operators == ("A", "Later")
    assert judge(known_to(A1, log, moment=NOW), A1, log).operators == ("A", "M")


# -- stapled -------------------------------------------------------------------------


def stapled(leaf: IssuedCertificate, *logs: Log) -> Sequence[SignedCertificateTimestamp]:
    """What logs say in an OCSP response, as `StaplePolicy` hands it on."""
    entry = certificate_entry(leaf.certificate)
    scts = timestamp_list([log.sign(entry, SIGNED) for log in logs])
    answer = ocsp_wire.Answer(leaf.certificate, AUTHORITY.certificate, NOW - DAY, NOW + DAY)
    answer.extensions = [ocsp_wire.extension(ocsp_wire.SCT_LIST, ocsp_wire.der(4, scts))]
    response = ocsp_wire.response(answer, responder=AUTHORITY.certificate, key=AUTHORITY.key)
    outcome = StaplePolicy("require").check(response, leaf.certificate, AUTHORITY.certificate, NOW)
    assert outcome.accepted
    return outcome.timestamps


def test_stapled_ones_count() -> None:
    outcome = judge(PLAIN, stapled=stapled(PLAIN, A1, B1))
    assert outcome == TransparencyOutcome(accepted=True, logs=("a1", "b1"), operators=("A", "B"))
    assert judge(PLAIN, stapled=stapled(PLAIN, A1, B1), issuer=None).accepted


def test_stapled_and_embedded_ones_count_together() -> None:
    leaf = known_to(A1)
    assert judge(leaf, stapled=stapled(leaf, B1)).logs == ("b1", "a1")


def test_stapled_ones_of_another_certificate_do_not_count() -> None:
    assert not judge(known_to(A1), stapled=stapled(PLAIN, B1)).accepted


# -- the list ------------------------------------------------------------------------


def test_tiled_logs_count_as_well() -> None:
    policy = TransparencyPolicy.load(log_list(A1, B1, kind="tiled_logs"))
    leaf = known_to(A1, B1).certificate
    assert policy.check(leaf, AUTHORITY.certificate, (), NOW).accepted


def changed(**facts: object) -> bytes:
    return log_list(A1, Log("odd", "B", facts=facts))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no log list of version 3"),
        (b"\xff", "no log list of version 3"),
        (b"[" * 100_000, "no log list of version 3"),
        (b"{}", "operators"),
        (b'{"operators": [{"name": "A", "logs": [{"key": "AA=="}]}]}', "log_id"),
        (changed(log_id="AA=="), "the id of 'odd' is not that of its key"),
        (changed(state={"usable": {"timestamp": "yesterday"}}), "RFC3339"),
        (changed(state={"usable": {"timestamp": "2026-01-01T00:00:00"}}), "timezone"),
        (log_list(), "no certificate could be accepted: 2 logs of 2 operators"),
        (log_list(A1, A2), "the log list has 2 of 1"),
        (log_list(A1), "the log list has 1 of 1"),
    ],
)
def test_a_list_that_is_none_or_could_accept_nobody_is_refused(
    content: bytes, problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        TransparencyPolicy.load(content)


def test_a_key_that_is_none_is_refused() -> None:
    log = Log("odd", "B")
    log.key = b"no key"
    log.log_id = hashlib.sha256(log.key).digest()
    with pytest.raises(ConfigurationError, match="the key of 'odd' cannot be read"):
        TransparencyPolicy.load(log_list(A1, log))


def test_a_log_without_a_name_is_called_by_its_id() -> None:
    log = Log("", "B")
    outcome = judge(known_to(A1, log), A1, log)
    assert outcome.logs == ("a1", log.log_id.hex())


def test_what_else_a_list_says_does_not_matter() -> None:
    content = json.loads(log_list(A1, B1))
    content["future"] = {"field": [1]}
    content["operators"][0]["logs"][0]["log_type"] = "prod"
    TransparencyPolicy.load(json.dumps(content).encode())
