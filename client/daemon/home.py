"""Where a hospital's daemon keeps its things below the site's home, and what it knows of its coordinator.

identity/   node.key node.pub            the SuperNode's key; never leaves
            client.key client.crt        the certificate that opens the coordinator's gateway
            ca.crt coordinator.json      the authority that was checked by telephone, and where the gateway is
            next.key                     key of a certificate that was asked for and has not come
            loopback/                    authority and certificate of this machine's own forwarder
daemon/     secret                       between SuperNode and runner
            state.json link.json node.json traffic.jsonl task/
logs/       one rotated file for each process
"""

import json
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from client.site import layout
from common.errors import StateError
from common.host.files import PUBLIC, write_atomically
from common.wire.addresses import Address


@dataclass(frozen=True)
class DaemonHome:
    """Paths of the daemon in a site's home; nothing is opened."""

    home: Path

    @property
    def identity(self) -> Path:
        """Folder of keys and certificates."""
        return self.home / layout.IDENTITY

    @property
    def node_key(self) -> Path:
        """The SuperNode's private key, OpenSSH form."""
        return self.identity / "node.key"

    @property
    def client_key(self) -> Path:
        """Private key of the client certificate."""
        return self.identity / "client.key"

    @property
    def client_certificate(self) -> Path:
        """The client certificate."""
        return self.identity / "client.crt"

    @property
    def authority(self) -> Path:
        """The coordinator's authority, as it was pinned."""
        return self.identity / "ca.crt"

    @property
    def next_key(self) -> Path:
        """Key of the certificate that was asked for."""
        return self.identity / "next.key"

    @property
    def loopback(self) -> Path:
        """Folder of the forwarder's own authority and certificate."""
        return self.identity / "loopback"

    @property
    def state(self) -> Path:
        """What a running daemon says of itself."""
        return self.home / layout.DAEMON / "state.json"

    @property
    def link(self) -> Path:
        """What the forwarder last saw of the coordinator."""
        return self.home / layout.DAEMON / "link.json"

    @property
    def node(self) -> Path:
        """Node id of a SuperNode that has not left cleanly."""
        return self.home / layout.DAEMON / "node.json"

    @property
    def traffic(self) -> Path:
        """Bytes in and out by day."""
        return self.home / layout.DAEMON / "traffic.jsonl"

    @property
    def secret(self) -> Path:
        """Secret between SuperNode and runner."""
        return self.home / layout.DAEMON / "secret"

    @property
    def task(self) -> Path:
        """Folder of the request that the runner works on."""
        return self.home / layout.DAEMON / "task"

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.home / layout.LOGS

    @property
    def enrolled(self) -> bool:
        """Whether a client certificate was installed."""
        return self.client_certificate.exists() and self.client_key.exists()


@dataclass(frozen=True, kw_only=True)
class Coordinator:
    """The coordinator a hospital has joined: the name it has there, and the gateway's "host:port"."""

    site: str
    address: str

    def __post_init__(self) -> None:
        try:
            Address.parse(self.address)
        except StateError as error:
            raise StateError("the coordinator's address is not `host:port`. Ask for the file again") from error

    @property
    def host(self) -> str:
        """Its name or address, without brackets."""
        return Address.parse(self.address).host

    def save(self, home: DaemonHome) -> None:
        """Write it down."""
        write_atomically(
            home.identity / "coordinator.json", json.dumps(asdict(self), sort_keys=True).encode(), mode=PUBLIC
        )

    @classmethod
    def load(cls, home: DaemonHome) -> Self:
        """Read it; raises `StateError` where the site has joined none."""
        table = read_json(home.identity / "coordinator.json")
        try:
            return cls(site=str(table["site"]), address=str(table["address"]))
        except KeyError as error:
            raise StateError(
                f"{home.home} has joined no coordinator. Run `wardround site join INVITE` with the invite you were sent"
            ) from error


def client_context(home: DaemonHome) -> ssl.SSLContext:
    """TLS towards the gateway: our certificate shown, only the pinned authority believed, no system roots.

    Raises:
        StateError: Not enrolled, or key and certificate do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(home.authority)
        context.load_cert_chain(home.client_certificate, home.client_key)
    except (OSError, ssl.SSLError) as error:
        raise StateError(
            f"{home.identity} holds no usable client certificate ({type(error).__name__}). "
            "Run `wardround site join` with the welcome you were sent"
        ) from error
    return context


def read_json(path: Path) -> dict[str, Any]:
    """Content of a small state file; {} when it is absent or not readable."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}
