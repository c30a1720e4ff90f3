"""Keys and certificates: tight files, one purpose each, and refusal of whatever is foreign, expired or not ours."""

import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import CertificateSigningRequestBuilder, Name

from common.errors import StateError
from common.host.files import PRIVATE, PUBLIC, write_atomically
from common.wire import pki

AUTHORITY = pki.make_authority("test authority")


def client(site: str = "north", **options: int) -> pki.Certificate:
    return pki.issue_client(AUTHORITY, pki.make_request(pki.new_key(), site), site, **options)


def test_a_private_key_is_never_readable_by_others_and_survives_the_round_trip(tmp_path: Path) -> None:
    key = pki.new_key()
    pki.save_key(tmp_path / "keys" / "node.key", key)
    assert stat.S_IMODE((tmp_path / "keys" / "node.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert pki.load_key(tmp_path / "keys" / "node.key").public_key() == key.public_key()
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["node.key"]


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    pki.save_key(tmp_path / "node.key", pki.new_key())
    (tmp_path / "node.key").chmod(0o640)
    with pytest.raises(StateError, match="chmod 600"):
        pki.load_key(tmp_path / "node.key")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, none = serialization.Encoding.PEM, serialization.NoEncryption()
    text = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, none)
    write_atomically(tmp_path / "node.key", text, mode=PRIVATE)
    with pytest.raises(StateError, match="P-384"):
        pki.load_key(tmp_path / "node.key")
    request = CertificateSigningRequestBuilder().subject_name(Name([])).sign(key, hashes.SHA256())
    with pytest.raises(StateError, match="P-384"):
        pki.issue_client(AUTHORITY, request, "north")


def test_openssl_agrees_that_the_chain_is_sound_and_each_certificate_has_one_purpose(tmp_path: Path) -> None:
    pki.save_certificate(tmp_path / "ca.crt", AUTHORITY.certificate)
    server = pki.issue_server(AUTHORITY, pki.new_key().public_key(), ["example.org", "127.0.0.1"])
    pki.save_certificate(tmp_path / "server.crt", server)
    pki.save_certificate(tmp_path / "client.crt", client())

    def verified(name: str, purpose: str) -> bool:
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", f"{name}.crt"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert verified("server", "sslserver")
    assert verified("client", "sslclient")
    assert not verified("client", "sslserver")
    assert not verified("server", "sslclient")
    assert pki.hosts(server) == {"example.org", "127.0.0.1"}


def test_the_authority_outlives_its_leaves_and_no_leaf_outlives_it() -> None:
    assert 19 * 365 < pki.days_left(AUTHORITY.certificate) < 21 * 365
    assert 729 < pki.days_left(client()) <= 730
    short = pki.make_authority("short", days=10)
    assert pki.days_left(pki.issue_server(short, pki.new_key().public_key(), ["localhost"])) < 11


def test_the_name_in_a_certificate_is_the_issuers_choice_and_not_the_requests() -> None:
    request = pki.make_request(pki.new_key(), "south")
    assert pki.site_of(pki.issue_client(AUTHORITY, request, "north")) == "north"


def test_a_foreign_and_an_expired_certificate_are_refused() -> None:
    pki.require_issued(client(), AUTHORITY.certificate, what="certificate")
    with pytest.raises(StateError, match="not issued by the authority"):
        pki.require_issued(client(), pki.make_authority("test authority").certificate, what="certificate")
    with pytest.raises(StateError, match="not now"):
        pki.require_issued(client(days=-1), AUTHORITY.certificate, what="certificate")


def test_a_fingerprint_can_be_read_out_and_typed_in_any_spacing_but_not_in_part() -> None:
    text = pki.fingerprint(AUTHORITY.certificate)
    assert pki.same_fingerprint(text, text.replace(" ", "").upper())
    assert pki.same_fingerprint(text, ":".join(text.split()))
    assert not pki.same_fingerprint(text[:-1], text[:-1])
    assert not pki.same_fingerprint(text, pki.fingerprint(client()))
    assert not pki.same_fingerprint("", "")


@pytest.mark.parametrize("name", ["", "North", "../up", "a" * 33, "-north", "nörth", "a b", "north\n"])
def test_what_is_no_site_name_is_refused(name: str) -> None:
    with pytest.raises(StateError, match="site name"):
        pki.check_site(name)


def test_a_revocation_list_is_understood_by_tls_and_names_only_the_revoked(tmp_path: Path) -> None:
    revoked = pki.revoke(AUTHORITY, [client().serial_number, 7, 7])
    assert len(revoked) == 2
    write_atomically(tmp_path / "revoked.crl", pki.pem(revoked).encode(), mode=PUBLIC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(tmp_path / "revoked.crl")
    assert context.cert_store_stats()["crl"] == 1


def test_public_keys_travel_in_openssh_form() -> None:
    key = pki.new_key().public_key()
    assert pki.read_openssh(pki.openssh(key) + " a comment") == key
    with pytest.raises(StateError, match="OpenSSH"):
        pki.read_openssh("ssh-rsa nonsense")
