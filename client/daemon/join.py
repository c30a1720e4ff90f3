"""Joining a coordinator by files: a key made here, an invite checked by telephone, a welcome checked by that invite.

Order
    `prepare` makes the site's own keys once. `answer` pins the authority of an invite whose fingerprint a person has
    confirmed and writes the request. `install` puts the certificate of the welcome in place. `renew` asks for a new
    certificate in the name of the old one. Each checks everything before it writes anything; private keys never leave.
"""

import contextlib
import datetime
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from client.cohort.identity import SIGNING_KEY
from client.daemon.home import Coordinator, DaemonHome
from client.site import place
from client.site.rules import SitePolicy
from common.errors import MessageRefused, StateError
from common.host.disk import told
from common.host.files import PRIVATE, PUBLIC, write_atomically
from common.wire import pki
from common.wire.enrolment import Invite, JoinRequest, Welcome
from common.wire.signing import Key

_SECRET_BYTES = 48


def prepare(home: DaemonHome) -> bool:
    """Make node key, loopback certificates and runner secret where they are missing; return whether any was.

    Raises:
        DiskRefused: The disk refuses, by its kind.
    """
    made = False
    with told(home.home):
        if not home.node_key.exists():
            key = pki.new_key()
            text = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            write_atomically(home.node_key, text, mode=PRIVATE)
            made = True
        write_atomically(
            home.identity / "node.pub", pki.openssh(_node_key(home).public_key()).encode() + b"\n", mode=PUBLIC
        )
        made = renew_loopback(home) or made
        if not home.secret.exists():
            write_atomically(home.secret, os.urandom(_SECRET_BYTES).hex().encode(), mode=PRIVATE)
            made = True
    return made


def renew_loopback(home: DaemonHome) -> bool:
    """Make the forwarder's authority and certificate where they are missing or end soon; return whether they were."""
    if _loopback_usable(home):
        return False
    _make_loopback(home)
    return True


def answer(home: DaemonHome, invite: Invite, *, fingerprint: str) -> JoinRequest:
    """Pin the invite's authority and return the request to send back. Nothing is kept unless all is well.

    Args:
        home: The site's home.
        invite: As read from its file.
        fingerprint: What the coordinator read out over the telephone.

    Raises:
        MessageRefused: The fingerprint differs, the invite has expired, or it is another site's.
        StateError: The home is not that of a site, or has joined another coordinator.
    """
    name = SitePolicy.load(home.home).name
    authority = pki.read_certificate(invite.ca_certificate, what="the invite's authority")
    if not pki.same_fingerprint(pki.fingerprint(authority), fingerprint):
        raise MessageRefused(
            "the fingerprint is not that of the invite's authority; nothing was kept. Compare it with the coordinator "
            "by telephone, at a number you knew before; if it still differs, the file is not theirs"
        )
    pki.require_issued(authority, authority, what="the invite's authority")
    _require_name(invite.site, name, "invite")
    _require_unexpired(invite)
    coordinator = Coordinator(site=invite.site, address=invite.address)
    if home.authority.exists() and pki.fingerprint(pki.load_certificate(home.authority)) != pki.fingerprint(authority):
        raise StateError(
            f"{home.home} trusts another coordinator's authority. To move to this one, take {home.authority} away first"
        )
    prepare(home)
    request = _request(home, name).proven(invite.token)
    pki.save_certificate(home.authority, authority)
    coordinator.save(home)
    return request


def renew(home: DaemonHome) -> JoinRequest:
    """Return a request for a new certificate, signed by the key of the one in use."""
    name = SitePolicy.load(home.home).name
    if not home.enrolled:
        raise StateError(f"{home.home} has no certificate to renew. Join by an invite")
    return _request(home, name).signed(pki.load_key(home.client_key))


def install(home: DaemonHome, welcome: Welcome) -> pki.Certificate:
    """Put the certificate of a welcome in place and return it; a running daemon takes it up by itself.

    Raises:
        MessageRefused: It is another site's, for another key, or of another authority.
        HomeMoved: The home was bound to another place before.
        StateError: No invite was answered here.
    """
    _require_name(welcome.site, SitePolicy.load(home.home).name, "welcome")
    authority = pki.load_certificate(home.authority)
    if pki.fingerprint(pki.read_certificate(welcome.ca_certificate)) != pki.fingerprint(authority):
        raise MessageRefused("the welcome is of another authority than the one you checked; nothing was changed")
    certificate = pki.read_certificate(welcome.certificate, what="the welcome's certificate")
    pki.require_issued(certificate, authority, what="the welcome's certificate")
    if pki.site_of(certificate) != welcome.site:
        raise MessageRefused("the welcome's certificate names another site; nothing was changed")
    coordinator = Coordinator(site=welcome.site, address=welcome.address)
    key = _key_of(home, certificate)
    place.require(home.home)
    pki.save_key(home.client_key, key)
    pki.save_certificate(home.client_certificate, certificate)
    coordinator.save(home)
    home.next_key.unlink(missing_ok=True)
    return certificate


def _request(home: DaemonHome, name: str) -> JoinRequest:
    """A request for the key in `next.key`, which is made where there is none, so that asking twice is as once."""
    if not home.next_key.exists():
        pki.save_key(home.next_key, pki.new_key())
    request = pki.make_request(pki.load_key(home.next_key), name)
    return JoinRequest(
        site=name,
        node_key=pki.openssh(_node_key(home).public_key()),
        verdict_key=Key.at(home.home / SIGNING_KEY).public,
        csr=pki.pem(request),
    )


def _key_of(home: DaemonHome, certificate: pki.Certificate) -> pki.Key:
    wanted = pki.openssh(pki.certificate_key(certificate))
    for path in (home.next_key, home.client_key):
        with contextlib.suppress(StateError):
            key = pki.load_key(path)
            if pki.openssh(key.public_key()) == wanted:
                return key
    raise MessageRefused("the welcome's certificate is for a key that is not here; nothing was changed. Ask again")


def _require_name(theirs: str, ours: str, what: str) -> None:
    if theirs != ours:
        raise MessageRefused(f"the {what} is for site {theirs!r}; this is {ours!r}. Ask the coordinator for yours")


def _require_unexpired(invite: Invite) -> None:
    try:
        expires = datetime.datetime.fromisoformat(invite.expires)
    except ValueError as error:
        raise MessageRefused("the invite's date cannot be read. Ask for another") from error
    if expires.tzinfo is None or expires < datetime.datetime.now(datetime.UTC):
        raise MessageRefused(f"the invite expired on {expires:%Y-%m-%d %H:%M}. Ask for another")


def _node_key(home: DaemonHome) -> pki.Key:
    try:
        if home.node_key.stat().st_mode & 0o077:
            raise StateError(f"{home.node_key} can be read by other users. Take it away from them: chmod 600")
        key = serialization.load_ssh_private_key(home.node_key.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise StateError(f"{home.node_key}: not a readable key ({type(error).__name__}). Restore it") from error
    if not isinstance(key, pki.Key):
        raise StateError(f"{home.node_key}: not an EC key. Restore the one made at init")
    return key


def _loopback_usable(home: DaemonHome) -> bool:
    try:
        certificate = pki.load_certificate(home.loopback / "server.crt")
        pki.require_issued(certificate, pki.load_certificate(home.loopback / "ca.crt"), what="loopback")
        pki.load_key(home.loopback / "server.key")
    except StateError:
        return False
    return pki.days_left(certificate) > 30


def _make_loopback(home: DaemonHome) -> None:
    """An authority that signs one certificate. Its key is then forgotten, so a second one is impossible."""
    authority = pki.make_authority("wardround loopback")
    key = pki.new_key()
    pki.save_key(home.loopback / "server.key", key)
    pki.save_certificate(home.loopback / "server.crt", pki.issue_server(authority, key.public_key(), ["127.0.0.1"]))
    pki.save_certificate(home.loopback / "ca.crt", authority.certificate)


def paper_of(path: Path) -> Invite | Welcome:
    """Read a file that is an invite or a welcome; raises `MessageRefused` for anything else."""
    try:
        return Invite.load(path)
    except MessageRefused:
        return Welcome.load(path)
