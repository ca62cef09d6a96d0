"""OCSP staples: who may sign them, for what, until when, and what they must say."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict

import pytest

pytest.importorskip("cryptography")

import ocsp_wire
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from ct_logs import Log, certificate_entry, timestamp_list
from ocsp_wire import Answer

from trio_mcp_transport import OcspMode
from trio_mcp_transport.security.ocsp import StapleOutcome, StaplePolicy
from trio_mcp_transport.testing.certificates import CertificateAuthority, IssuedCertificate

pytestmark = [pytest.mark.security, pytest.mark.tls]

NOW = 1_900_000_000.0
DAY = 86_400.0
SKEW = 300.0
SHA256 = hashes.SHA256()
ISSUER = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Issuer")])


class Lifetime(TypedDict):
    not_before: float
    not_after: float


YEARS = Lifetime(not_before=NOW - 1000 * DAY, not_after=NOW + 1000 * DAY)

AUTHORITY = CertificateAuthority.create(**YEARS)
LEAF = AUTHORITY.issue_server("a.example", **YEARS)
OTHER = AUTHORITY.issue_server("a.example", **YEARS)
PROMISED = AUTHORITY.issue_server("a.example", must_staple=True, **YEARS)
STRANGER = CertificateAuthority.create(**YEARS)


def judge(
    staple: bytes,
    mode: OcspMode = "require",
    *,
    leaf: IssuedCertificate = LEAF,
    issuer: x509.Certificate | None = AUTHORITY.certificate,
    now: float = NOW,
) -> StapleOutcome:
    return StaplePolicy(mode, skew=SKEW).check(staple, leaf.certificate, issuer, now)


def staple(
    status: Literal["good", "revoked", "unknown"] = "good",
    *,
    about: IssuedCertificate = LEAF,
    begin: float = NOW - DAY,
    end: float | None = NOW + DAY,
    responder: IssuedCertificate | None = None,
    authority: CertificateAuthority = AUTHORITY,
) -> bytes:
    return authority.ocsp_response(
        about, status, this_update=begin, next_update=end, responder=responder
    )


def signed_by(
    *answers: Answer, responder: IssuedCertificate | CertificateAuthority = AUTHORITY
) -> bytes:
    return ocsp_wire.response(*answers, responder=responder.certificate, key=responder.key)


def answer(about: IssuedCertificate = LEAF, *, revoked: bool = False) -> Answer:
    return Answer(about.certificate, AUTHORITY.certificate, NOW - DAY, NOW + DAY, revoked=revoked)


# -- what it says --------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["require", "if-present"])
def test_a_good_one_is_accepted(mode: OcspMode) -> None:
    assert judge(staple(), mode) == StapleOutcome(
        accepted=True, status="good", this_update=NOW - DAY, next_update=NOW + DAY
    )


@pytest.mark.parametrize("mode", ["require", "if-present"])
def test_a_revoked_certificate_is_refused(mode: OcspMode) -> None:
    outcome = judge(signed_by(answer(revoked=True)), mode)
    assert (outcome.accepted, outcome.status) == (False, "revoked")
    assert outcome.reason == "its OCSP staple says revoked on 2030-03-16"


@pytest.mark.parametrize("mode", ["require", "if-present"])
def test_a_certificate_that_the_responder_does_not_know_is_refused(mode: OcspMode) -> None:
    outcome = judge(staple("unknown"), mode)
    assert (outcome.accepted, outcome.status) == (False, "unknown")
    assert "does not know it" in outcome.reason


# -- none at all ---------------------------------------------------------------------


def test_none_is_refused_where_one_is_required() -> None:
    outcome = judge(b"", "require")
    assert (outcome.accepted, outcome.status) == (False, "missing")
    assert outcome.reason == "the server stapled no OCSP response"


def test_none_will_do_otherwise() -> None:
    assert judge(b"", "if-present") == StapleOutcome(accepted=True, status="missing")


def test_none_is_refused_where_the_certificate_promises_one() -> None:
    outcome = judge(b"", "if-present", leaf=PROMISED)
    assert (outcome.accepted, outcome.status) == (False, "missing")
    assert "must-staple" in outcome.reason
    assert judge(staple(about=PROMISED), "if-present", leaf=PROMISED).accepted


def test_a_promise_that_cannot_be_read_is_taken_for_one() -> None:
    """What TLSFeature says is a list of numbers, and this is none."""
    oid = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.24")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = builder_for(key.public_key(), x509.Name([]), AUTHORITY.certificate.subject)
    builder = builder.add_extension(x509.UnrecognizedExtension(oid, b"garbage"), critical=False)
    leaf = IssuedCertificate(builder.sign(AUTHORITY.key, SHA256), key)
    assert not judge(b"", "if-present", leaf=leaf).accepted


def test_an_error_of_the_responder_counts_as_none() -> None:
    status = ocsp.OCSPResponseStatus.TRY_LATER
    later = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
    assert judge(later, "if-present") == StapleOutcome(accepted=True, status="missing")
    outcome = judge(later, "require")
    assert (outcome.accepted, outcome.status) == (False, "missing")
    assert "'try later'" in outcome.reason


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_nothing_is_looked_at_when_it_is_off(content: bytes) -> None:
    assert judge(content, "off", leaf=PROMISED) == StapleOutcome(accepted=True, status="off")


# -- when ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "good"),
    [
        (NOW - DAY - SKEW - 1, False),
        (NOW - DAY - SKEW, True),
        (NOW + DAY + SKEW, True),
        (NOW + DAY + SKEW + 1, False),
    ],
)
def test_it_is_good_for_its_time_and_the_skew(now: float, good: bool) -> None:
    outcome = judge(staple(), "if-present", now=now)
    assert outcome.accepted is good
    assert outcome.status == ("good" if good else "outdated")
    assert bool(outcome.reason) is not good


def test_what_has_expired_says_when() -> None:
    outcome = judge(staple(end=NOW - SKEW - 1))
    assert outcome.reason == "its OCSP staple expired on 2030-03-17 17:41 UTC"


@pytest.mark.parametrize(("age", "good"), [(0, True), (SKEW, True), (SKEW + 1, False)])
def test_one_without_an_end_is_good_while_it_is_fresh(age: float, good: bool) -> None:
    outcome = judge(staple(begin=NOW - age, end=None))
    assert outcome.accepted is good
    assert outcome.next_update is None


# -- for whom ------------------------------------------------------------------------


def test_one_for_another_certificate_is_refused() -> None:
    outcome = judge(staple(about=OTHER), "if-present")
    assert (outcome.accepted, outcome.status) == (False, "invalid")
    assert outcome.reason == "its OCSP staple is for another certificate"


def test_an_issuer_of_the_same_name_with_another_key_is_another_issuer() -> None:
    """The serial number and the name are right, and the right one signed."""
    namesake = CertificateAuthority.create(**YEARS)
    about = Answer(LEAF.certificate, namesake.certificate, NOW - DAY, NOW + DAY)
    outcome = judge(signed_by(about))
    assert outcome.reason == "its OCSP staple is for another certificate"


@pytest.mark.parametrize("hash_name", ["sha1", "sha256"])
def test_the_answer_is_found_among_others(hash_name: str) -> None:
    right = answer()
    right.hash_name = hash_name
    assert judge(signed_by(answer(OTHER, revoked=True), right)).accepted
    wrong = judge(signed_by(answer(OTHER), answer(revoked=True)))
    assert wrong.status == "revoked"


def test_without_an_issuer_nothing_can_be_verified() -> None:
    """As for a certificate that is trusted by itself: revoking it is up to who trusts it."""
    for status in ("good", "revoked"):
        outcome = judge(signed_by(answer(revoked=status == "revoked")), "if-present", issuer=None)
        assert (outcome.accepted, outcome.status) == (True, "missing")
    outcome = judge(staple(), "require", issuer=None)
    assert not outcome.accepted
    assert "its issuer is not known" in outcome.reason
    assert not judge(staple(about=PROMISED), "if-present", leaf=PROMISED, issuer=None).accepted


def test_a_certificate_that_signed_itself_is_its_own_issuer() -> None:
    own = IssuedCertificate(AUTHORITY.certificate, AUTHORITY.key)
    assert judge(staple(about=own), leaf=own, issuer=None).accepted


# -- who signed ----------------------------------------------------------------------


def test_a_responder_that_the_issuer_appointed_may_sign() -> None:
    responder = AUTHORITY.issue_responder(**YEARS)
    assert judge(staple(responder=responder)).accepted


@pytest.mark.parametrize("mode", ["require", "if-present"])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda: AUTHORITY.issue_responder(ocsp_signing=False, **YEARS),
            "is not for signing OCSP responses",
        ),
        (
            lambda: STRANGER.issue_responder(**YEARS),
            "a responder whom its issuer does not know",
        ),
        (
            lambda: AUTHORITY.issue_responder(not_before=0, not_after=NOW - SKEW - 1),
            "whose certificate is not valid now",
        ),
        (
            lambda: AUTHORITY.issue_responder(not_before=NOW + SKEW + 1, not_after=NOW + DAY),
            "whose certificate is not valid now",
        ),
    ],
)
def test_a_responder_that_may_not_sign_is_refused(
    mode: OcspMode, make: Callable[[], IssuedCertificate], problem: str
) -> None:
    outcome = judge(staple(responder=make()), mode)
    assert (outcome.accepted, outcome.status) == (False, "invalid")
    assert problem in outcome.reason


def test_a_responder_that_did_not_sign_is_refused() -> None:
    """Its certificate is public: whoever forges a response can show it."""
    responder = AUTHORITY.issue_responder(**YEARS)
    forged = ocsp_wire.response(
        answer(),
        responder=responder.certificate,
        key=STRANGER.key,
        shown=[responder.certificate],
    )
    outcome = judge(forged)
    assert not outcome.accepted
    assert outcome.reason == "its OCSP staple has a signature that does not fit"


def test_a_key_that_cannot_sign_has_not_signed() -> None:
    key = x25519.X25519PrivateKey.generate().public_key()
    builder = builder_for(key, ISSUER, AUTHORITY.certificate.subject)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    responder = builder.add_extension(purpose, critical=False).sign(AUTHORITY.key, SHA256)
    forged = ocsp_wire.response(answer(), responder=responder, key=STRANGER.key, shown=[responder])
    assert judge(forged).reason == "its OCSP staple has a signature that does not fit"


def test_the_servers_own_certificate_may_not_sign() -> None:
    """The issuer signed it, and its key is at hand: who runs the server could do it."""
    assert not judge(staple(responder=LEAF)).accepted
    assert not judge(signed_by(answer(), responder=LEAF)).accepted


def test_a_responder_without_any_purpose_or_not_for_signatures_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    def responder(*extensions: x509.ExtensionType) -> IssuedCertificate:
        builder = builder_for(key.public_key(), x509.Name([]), AUTHORITY.certificate.subject)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return IssuedCertificate(builder.sign(AUTHORITY.key, hashes.SHA256()), key)

    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=True,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    assert judge(staple(responder=responder(purpose))).accepted
    assert not judge(staple(responder=responder())).accepted
    assert not judge(staple(responder=responder(purpose, usage))).accepted


def test_a_stranger_that_calls_itself_the_issuer_is_refused() -> None:
    """Same name, so the responder's id is right if it is by name; the key is not."""
    right = named_response(AUTHORITY.certificate, AUTHORITY.key)
    wrong = named_response(STRANGER.certificate, STRANGER.key)
    shown = (STRANGER.certificate, AUTHORITY.certificate)
    worse = named_response(STRANGER.certificate, STRANGER.key, shown=shown)
    assert judge(right).accepted
    assert judge(wrong).reason == "its OCSP staple is not signed by its issuer"
    assert not judge(worse).accepted


def test_a_response_that_was_changed_is_refused() -> None:
    """Byte by byte: nothing but what is not signed may change without notice."""
    genuine = staple("revoked")
    assert judge(genuine).status == "revoked"
    for position in range(len(genuine)):
        changed = bytearray(genuine)
        changed[position] ^= 1
        assert not judge(bytes(changed)).accepted


def test_every_cut_is_refused() -> None:
    genuine = staple()
    for length in range(1, len(genuine)):
        assert judge(genuine[:length]).status in {"invalid", "missing"}
        assert not judge(genuine[:length]).accepted
    assert not judge(genuine + b"\0").accepted


def test_a_weak_signature_is_refused() -> None:
    for weak in (False, True):
        signed = ocsp_wire.response(
            answer(), responder=AUTHORITY.certificate, key=AUTHORITY.key, weak=weak
        )
        assert judge(signed).accepted is not weak


def test_rsa_may_sign() -> None:
    key = rsa.generate_private_key(65537, 2048)
    issuer, leaf = namesakes(key)
    genuine = named_response(issuer, key, about=leaf, issuer=issuer)
    assert judge(genuine, leaf=leaf, issuer=issuer).accepted
    changed = genuine[:-1] + bytes([genuine[-1] ^ 1])
    assert not judge(changed, leaf=leaf, issuer=issuer).accepted


@pytest.mark.parametrize("kind", [ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey])
def test_edwards_curves_may_sign(
    kind: type[ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey],
) -> None:
    key, other_key = kind.generate(), kind.generate()
    issuer, leaf = namesakes(key)
    genuine = named_response(issuer, key, None, about=leaf, issuer=issuer)
    assert judge(genuine, leaf=leaf, issuer=issuer).accepted
    namesake, _ = namesakes(other_key)
    foreign = named_response(namesake, other_key, None, about=leaf, issuer=issuer)
    assert not judge(foreign, leaf=leaf, issuer=issuer).accepted


def test_a_critical_extension_that_nobody_knows_is_refused() -> None:
    def with_extension(*, critical: bool) -> bytes:
        return ocsp_wire.response(
            answer(),
            responder=AUTHORITY.certificate,
            key=AUTHORITY.key,
            extensions=[ocsp_wire.extension(ocsp_wire.NOBODYS, b"\5\0", critical=critical)],
        )

    assert judge(with_extension(critical=False)).accepted
    outcome = judge(with_extension(critical=True))
    assert (outcome.status, outcome.accepted) == ("invalid", False)
    assert "critical extension" in outcome.reason


# -- timestamps of logs --------------------------------------------------------------


def stamped(*more: Answer, content: bytes) -> bytes:
    right = answer()
    right.extensions = [ocsp_wire.extension(ocsp_wire.SCT_LIST, content)]
    return signed_by(right, *more)


def test_the_timestamps_in_a_good_response_are_handed_on() -> None:
    log = Log("a", "A")
    timestamp = log.sign(certificate_entry(LEAF.certificate), NOW - DAY)
    content = ocsp_wire.der(4, timestamp_list([timestamp]))
    outcome = judge(stamped(content=content))
    assert outcome.accepted
    assert [each.log_id for each in outcome.timestamps] == [log.log_id]
    assert judge(stamped(answer(OTHER), content=content)).timestamps == ()


def test_timestamps_that_cannot_be_read_are_none() -> None:
    outcome = judge(stamped(content=b"\4\2\0\1"))
    assert outcome.accepted
    assert outcome.timestamps == ()


# -- other keys ----------------------------------------------------------------------

_Key = (
    ec.EllipticCurvePrivateKey
    | rsa.RSAPrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
)


def named_response(
    responder: x509.Certificate,
    key: _Key,
    algorithm: hashes.HashAlgorithm | None = SHA256,
    *,
    about: IssuedCertificate = LEAF,
    issuer: x509.Certificate = AUTHORITY.certificate,
    shown: Sequence[x509.Certificate] = (),
) -> bytes:
    """A response whose responder is told by its name."""
    builder = (
        ocsp
        .OCSPResponseBuilder()
        .add_response(
            cert=about.certificate,
            issuer=issuer,
            algorithm=SHA256,
            cert_status=ocsp.OCSPCertStatus.GOOD,
            this_update=moment(NOW - DAY),
            next_update=moment(NOW + DAY),
            revocation_time=None,
            revocation_reason=None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.NAME, responder)
    )
    if shown:
        builder = builder.certificates(shown)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def namesakes(key: _Key) -> tuple[x509.Certificate, IssuedCertificate]:
    """An issuer with this key, always of the same name, and what it issued."""
    own = ec.generate_private_key(ec.SECP256R1())
    algorithm = SHA256 if isinstance(key, rsa.RSAPrivateKey) else None
    issuer = builder_for(key.public_key(), ISSUER, ISSUER).sign(key, algorithm)
    leaf = builder_for(own.public_key(), x509.Name([]), ISSUER).sign(key, algorithm)
    return issuer, IssuedCertificate(leaf, own)


def builder_for(
    key: CertificatePublicKeyTypes, subject: x509.Name, issuer: x509.Name
) -> x509.CertificateBuilder:
    return (
        x509
        .CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(NOW - DAY))
        .not_valid_after(moment(NOW + DAY))
    )


def moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
