"""A coordinator's home and hospitals that knock at its gateway, for the tests of both."""

import base64
import contextlib
import datetime
import secrets
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import fleet_pb2
from google.protobuf.message import Message

from common.host.files import PUBLIC, write_atomically
from common.wire import flower_version, pki
from common.wire.enrolment import Invite, JoinRequest, Welcome
from server.coordinator import invitations
from server.coordinator.control import SuperLink
from server.coordinator.home import Home, free_ports
from server.coordinator.steward import Steward
from server.gateway.admission import flower_key


def make_home(folder: Path) -> Home:
    return Home.init(folder, host=f"127.0.0.1:{free_ports(1)[0]}")


@dataclass
class Visitor:
    """A site's keys and certificate, in the hands of whoever."""

    site: str
    node_key: pki.Key
    client_key: pki.Key
    welcome: Welcome

    @classmethod
    def enrolled(cls, home: Home, site: str) -> "Visitor":
        node_key, client_key = pki.new_key(), pki.new_key()
        invite = invitations.invite(home, site)
        return cls(site, node_key, client_key, invitations.enrol(home, request(invite, node_key, client_key)))

    def context(self, folder: Path) -> ssl.SSLContext:
        """TLS as the site's forwarder speaks it."""
        pki.save_key(folder / f"{self.site}.key", self.client_key)
        write_atomically(folder / f"{self.site}.crt", self.welcome.certificate.encode(), mode=PUBLIC)
        context = ssl.create_default_context(cadata=self.welcome.ca_certificate)
        context.load_cert_chain(folder / f"{self.site}.crt", folder / f"{self.site}.key")
        return context

    def client(self, home: Home, folder: Path) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://{home.settings.address}", verify=self.context(folder), trust_env=False, timeout=30
        )

    def headers(self) -> dict[str, str]:
        """What Flower's SuperNode signs each request with."""
        stamp = datetime.datetime.now(datetime.UTC).isoformat()
        signature = self.node_key.sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
        return {
            "content-type": "application/protobuf",
            "accept": "application/protobuf",
            "flwr-public-key": base64.b64encode(self.public_key).decode(),
            "flwr-signature": base64.b64encode(signature).decode(),
            "flwr-timestamp": stamp,
        }

    @property
    def public_key(self) -> bytes:
        return flower_key(pki.openssh(self.node_key.public_key()))

    def post(self, client: httpx.Client, name: str, message: Message | bytes) -> httpx.Response:
        body = message if isinstance(message, bytes) else message.SerializeToString()
        return client.post(f"/v1/fleet/{name}", content=body, headers=self.headers())


def request(invite: Invite, node_key: pki.Key, client_key: pki.Key, *, verdict_key: str = "") -> JoinRequest:
    return JoinRequest(
        site=invite.site,
        node_key=pki.openssh(node_key.public_key()),
        verdict_key=verdict_key or secrets.token_hex(32),
        csr=pki.pem(pki.make_request(client_key, invite.site)),
    ).proven(invite.token)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(timeout=60)


def wait_for(address: tuple[str, int]) -> None:
    for _ in range(1200):
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on {address}")


def reconcile(home: Home) -> dict[str, str]:
    with SuperLink(home) as link:
        return Steward(home).reconcile(link)


def activate(visitor: Visitor) -> fleet_pb2.ActivateNodeRequest:
    return fleet_pb2.ActivateNodeRequest(public_key=visitor.public_key, heartbeat_interval=30)


def bearer(home: Home, folder: Path, certificate: pki.Certificate, key: pki.Key) -> ssl.SSLContext:
    pki.save_key(folder / "bearer.key", key)
    pki.save_certificate(folder / "bearer.crt", certificate)
    context = ssl.create_default_context(cafile=home.ca_certificate)
    context.load_cert_chain(folder / "bearer.crt", folder / "bearer.key")
    return context


def said_by(version: str) -> dict[str, str]:
    """The headers by which a SuperNode says what it is."""
    return {"flwr-package-name": "flwr", "flwr-package-version": version, "flwr-component-name": "SuperNode"}


def ask(visitor: Visitor, client: httpx.Client, body: bytes, version: str, tried: str = "") -> httpx.Response:
    headers = {**visitor.headers(), **said_by(version), flower_version.TRIED_HEADER: tried}
    return client.post("/v1/fleet/send-node-heartbeat", content=body, headers=headers)
