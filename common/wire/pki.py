"""Keys and certificates of a deployment: one authority, server and client certificates, requests, revocations.

Every key is on the curve P-384, which TLS 1.3, Flower's node authentication and OpenSSH all take. Private keys are
written with mode 0600, everything else with 0644; a crash leaves the old file or the new one.
"""

import datetime
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import StateError
from common.host.files import PRIVATE, PUBLIC, write_atomically
from common.wire.addresses import check_host
from common.wire.site_name import RULE, is_site_name

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
Certificate = x509.Certificate
Request = x509.CertificateSigningRequest
RevocationList = x509.CertificateRevocationList

AUTHORITY_DAYS = 20 * 365
LEAF_DAYS = 2 * 365
_BACKDATED = datetime.timedelta(minutes=10)
"""Certificates are valid from a little before they were made, so that a clock a few minutes behind accepts them."""


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate authority: the one root that both sides of a deployment trust."""

    key: Key
    certificate: Certificate


def new_key() -> Key:
    """Return a fresh private key on P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def make_authority(name: str, *, days: int = AUTHORITY_DAYS) -> Authority:
    """Make a certificate authority called `name` that can issue leaves and nothing else.

    Args:
        name: Common name, at most 64 characters.
        days: How long it is valid.
    """
    key = new_key()
    subject = _named(name)
    builder = _certificate(subject, subject, key.public_key(), days).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Authority(key=key, certificate=builder.sign(key, hashes.SHA384()))


def issue_server(
    authority: Authority, public_key: PublicKey, hosts: Sequence[str], *, days: int = LEAF_DAYS
) -> Certificate:
    """Issue a certificate for a TLS server.

    Args:
        authority: The issuer.
        public_key: The server's key.
        hosts: Host names and IP addresses it answers to; the first is its common name.
        days: How long it is valid; never longer than the authority.

    Raises:
        StateError: `hosts` is empty or holds something that is neither a host name nor an address.
    """
    if not hosts:
        raise StateError("a server certificate needs at least one host name or address")
    names = x509.SubjectAlternativeName([_host(host) for host in dict.fromkeys(hosts)])
    builder = _leaf(authority, _named(hosts[0][:64]), public_key, days, ExtendedKeyUsageOID.SERVER_AUTH)
    return builder.add_extension(names, critical=False).sign(authority.key, hashes.SHA384())


def issue_client(authority: Authority, request: Request, site: str, *, days: int = LEAF_DAYS) -> Certificate:
    """Issue the client certificate a site asked for. The name is the issuer's to give: `site`, never the request's.

    Args:
        authority: The coordinator's authority.
        request: What the site sent.
        site: Name that the certificate bears.
        days: How long it is valid.

    Raises:
        StateError: `site` is no site name, or the request is not signed by its own key or not on P-384.
    """
    check_site(site)
    public_key = request_key(request)
    builder = _leaf(authority, _named(site), public_key, days, ExtendedKeyUsageOID.CLIENT_AUTH)
    return builder.sign(authority.key, hashes.SHA384())


def make_request(key: Key, site: str) -> Request:
    """Ask for a client certificate for `site` whose private key is `key`."""
    check_site(site)
    return x509.CertificateSigningRequestBuilder().subject_name(_named(site)).sign(key, hashes.SHA384())


def request_key(request: Request) -> PublicKey:
    """Return the key a request is for; raises `StateError` unless the request is signed by it and it is on P-384."""
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise StateError("the certificate request is not for an EC key on P-384. Make it with `wardround site join`")
    if not request.is_signature_valid:
        raise StateError("the certificate request is not signed by the key it names. Make it again")
    return key


def certificate_key(certificate: Certificate) -> PublicKey:
    """Return the key a certificate is for; raises `StateError` when it is not an EC key on P-384."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise StateError("the certificate is not for an EC key on P-384")
    return key


def revoke(authority: Authority, serials: Iterable[int]) -> RevocationList:
    """Return the authority's list of revoked certificates; it is valid as long as the authority is."""
    now = _now()
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.certificate.subject)
    builder = builder.last_update(now - _BACKDATED).next_update(authority.certificate.not_valid_after_utc)
    for serial in sorted(set(serials)):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, hashes.SHA384())


def revoked_serials(text: str) -> list[int]:
    """Serial numbers on a PEM revocation list; raises `StateError`."""
    try:
        return [entry.serial_number for entry in x509.load_pem_x509_crl(text.encode())]
    except ValueError as error:
        raise StateError("not a revocation list in PEM form") from error


def require_issued(certificate: Certificate, authority: Certificate, *, what: str) -> None:
    """Refuse a certificate that `authority` did not sign or that is not valid now.

    Args:
        certificate: The certificate in question.
        authority: The authority's own certificate.
        what: What it is, for the message.

    Raises:
        StateError: It is foreign, expired or not valid yet; `what` names it in the message.
    """
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise StateError(f"{what} was not issued by the authority of this deployment. Enrol again") from error
    if not certificate.not_valid_before_utc <= _now() <= certificate.not_valid_after_utc:
        raise StateError(
            f"{what} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d} and not now. Renew it, and check this machine's clock"
        )


def site_of(certificate: Certificate) -> str:
    """The site a client certificate names; "" where it names none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def hosts(certificate: Certificate) -> set[str]:
    """Host names and addresses that a server certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def fingerprint(certificate: Certificate) -> str:
    """SHA-256 of a certificate as groups of four hexadecimal digits, for reading out over the telephone."""
    digits = certificate.fingerprint(hashes.SHA256()).hex()
    return " ".join(digits[i : i + 4] for i in range(0, len(digits), 4))


def same_fingerprint(one: str, other: str) -> bool:
    """Whether two fingerprints are equal, however they are spaced, cased or separated by colons."""
    plain = [re.sub(r"[\s:-]", "", text).lower() for text in (one, other)]
    return plain[0] == plain[1] and re.fullmatch(r"[0-9a-f]{64}", plain[0]) is not None


def days_left(certificate: Certificate) -> float:
    """Days until the certificate expires; negative when it has."""
    return (certificate.not_valid_after_utc - _now()).total_seconds() / 86400


def check_site(site: str) -> str:
    """Return `site` if it is a site name (`common.wire.site_name`); else `StateError`."""
    if not is_site_name(site):
        raise StateError(f"{site[:40]!r} is no site name. Use {RULE}")
    return site


def pem(thing: Certificate | Request | RevocationList) -> str:
    """PEM text of a certificate, request or revocation list."""
    return thing.public_bytes(serialization.Encoding.PEM).decode("ascii")


def openssh(key: PublicKey) -> str:
    """One OpenSSH line for a public key, the form Flower registers nodes by."""
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_bytes(encoding, form).decode("ascii")


def read_openssh(text: str) -> PublicKey:
    """Read a public key in OpenSSH form; raises `StateError` unless it is an EC key on P-384."""
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except Exception as error:  # what cryptography raises here differs by version
        raise StateError(f"not a public key in OpenSSH form ({type(error).__name__})") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise StateError("the public key is not an EC key on P-384. Make it with `wardround site init`")
    return key


def read_certificate(text: str, *, what: str = "certificate") -> Certificate:
    """Read a PEM certificate; raises `StateError`."""
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except ValueError as error:
        raise StateError(f"{what}: not a certificate in PEM form") from error


def read_request(text: str) -> Request:
    """Read a PEM certificate request; raises `StateError`."""
    try:
        return x509.load_pem_x509_csr(text.encode())
    except ValueError as error:
        raise StateError("not a certificate request in PEM form") from error


def save_key(path: Path, key: Key) -> None:
    """Write a private key, PEM PKCS #8, mode 0600 from its first byte on."""
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_atomically(path, text, mode=PRIVATE)


def save_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate, PEM, mode 0644."""
    write_atomically(path, pem(certificate).encode(), mode=PUBLIC)


def load_key(path: Path) -> Key:
    """Read a private key; raises `StateError` when it is absent, not one on P-384, or readable by others."""
    try:
        if path.stat().st_mode & 0o077:
            raise StateError(f"{path} can be read by other users. Take it away from them: chmod 600")
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"{path}: not a readable private key ({type(error).__name__}). Restore it") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise StateError(f"{path}: not an EC key on P-384. Restore the one made at init")
    return key


def load_certificate(path: Path) -> Certificate:
    """Read a certificate; raises `StateError` when it is absent or not one."""
    try:
        return read_certificate(path.read_text(encoding="utf-8"), what=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path}: cannot be read ({type(error).__name__}). Restore it") from error


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    checked = check_host(host)
    try:
        return x509.IPAddress(ipaddress.ip_address(checked))
    except ValueError:
        return x509.DNSName(checked)


def _leaf(
    authority: Authority, subject: x509.Name, key: PublicKey, days: int, purpose: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    issuer = authority.certificate
    builder = _certificate(subject, issuer.subject, key, days, latest=issuer.not_valid_after_utc)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return builder.add_extension(identifier, critical=False)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    days: int,
    *,
    latest: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = _now()
    end = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - _BACKDATED)
        .not_valid_after(min(end, latest) if latest else end)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
