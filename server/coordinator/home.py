"""The coordinator's home folder: where everything lies, and `server.toml`, its settings.

server.toml             settings; the operator's file
ca/                     ca.key, ca.crt, revoked.crl: the authority; lives for years and is never made anew
tls/                    gateway.key|crt, superlink.key|crt: renewed by `serve` before they expire
secrets/                superexec.secret
signing/                coordinator.key (Ed25519): signs releases; every study folder links to it
nodes/SITE.json         one record per site: invited, enrolled or revoked
heads/SITE.json         the last entries of a site's ledger that its replies named, over all studies
twins.json              node keys that were used from two places at once
studies/NAME/           run folders
superlink/state.db      Flower's database
flwr/                   FLWR_HOME; its config.toml names the superlink `wardround`
logs/                   rotated logs of every process
state.json              process ids and health of a running `serve`
"""

import contextlib
import dataclasses
import os
import re
import secrets
import shutil
import socket
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.display.texts import NotText, read_text, why
from common.errors import OutputInUse, StateError
from common.host.files import PRIVATE, PUBLIC, write_atomically
from common.host.locks import is_held, locked
from common.plan.reader import build
from common.wire import pki
from common.wire.addresses import Address, check_host
from common.wire.signing import Key
from server.coordinator import authority

DEFAULT_PORT = 8443
SUPERLINK = "wardround"
"""Name of the SuperLink in Flower's own configuration."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY_IPV4, ANY = "0.0.0.0", "::"
"""Every address of this machine: those of IPv4, and those of IPv6 and IPv4 alike."""

_TEMPLATE = """\
# The coordinator's settings, read when `wardround server serve` starts.

# What hospitals connect to, and the names that the gateway's certificate holds.
address = "{address}"
names = {names}

# Where the gateway listens; the only port of this machine that is reachable from outside. "[::]:PORT" takes IPv6 and
# IPv4, "0.0.0.0:PORT" takes IPv4 alone.
listen = "{listen}"

# Loopback ports of Flower's SuperLink and of gRPC health.
superlink_port = {superlink_port}
health_port = {health_port}

# Largest body of one request, MiB. Flower sends arrays in chunks of 5 MB.
max_body_mib = {max_body_mib}

# How often a study whose run failed is started again by itself before it waits for `wardround server resume`.
resume_tries = {resume_tries}
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`server.toml`.

    Attributes:
        address: "host:port" that hospitals connect to.
        names: Host names and addresses in the gateway's certificate.
        listen: "address:port" that the gateway binds.
        superlink_port: Loopback port of the SuperLink.
        health_port: Loopback port of gRPC health.
        max_body_mib: Largest request body, MiB.
        resume_tries: Automatic restarts of a failed run that makes no progress.
    """

    address: str
    names: tuple[str, ...]
    listen: str
    superlink_port: int
    health_port: int
    max_body_mib: int = 16
    resume_tries: int = 5

    def __post_init__(self) -> None:
        Address.parse(self.address)
        Address.parse(self.listen)
        _require(len(self.names) > 0, "names", "a list of at least one host name or address")
        for name in self.names:
            check_host(name)
        for key in ("superlink_port", "health_port"):
            _require(1 <= getattr(self, key) <= 65535, key, "a port from 1 to 65535")
        _require(6 <= self.max_body_mib <= 256, "max_body_mib", "from 6 to 256")
        _require(0 <= self.resume_tries <= 1000, "resume_tries", "from 0 to 1000")


@dataclass(frozen=True)
class Home:
    """An existing home of a coordinator."""

    root: Path
    settings: Settings

    @classmethod
    def open(cls, root: Path) -> Self:
        """Read the settings.

        Raises:
            StateError: `root` is no coordinator's home, or its server.toml cannot be used.
        """
        path = root / "server.toml"
        try:
            table = tomllib.loads(read_text(path))
        except FileNotFoundError as error:
            raise StateError(
                f"{root} is no coordinator's home. Make one with `wardround server init`, or name another --home"
            ) from error
        except (OSError, NotText) as error:
            raise StateError(f"{path}: {why(error)}. Mend or restore it") from error
        except tomllib.TOMLDecodeError as error:
            raise StateError(f"{path}: not a readable TOML file: {error}. Mend or restore it") from error
        return cls(root.resolve(), build(Settings, table, what="server.toml", error=StateError))

    @classmethod
    def init(cls, root: Path, *, host: str, names: Sequence[str] = (), listen: str = "") -> Self:
        """Make a home: authority, certificates, secrets, folders.

        Args:
            root: Folder to create; must be absent or empty.
            host: "name[:port]" that hospitals will connect to.
            names: More host names or addresses for the gateway's certificate.
            listen: "address:port" to bind; default every address (IPv6, too, when `host` is one), or loopback when
                `host` is.

        Raises:
            OutputInUse: `root` holds something; nothing was changed.
            StateError: `host` or a name is not one.
        """
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise OutputInUse(f"{root} is not empty; an authority is never made twice. Name another folder")
        settings = _first_settings(host, names, listen)
        with _draft(root) as draft:
            authority.save(draft / "ca", pki.make_authority(f"wardround {settings.names[0]}"[:64]))
            cls(draft, settings).complete()
            fields = {**dataclasses.asdict(settings), "names": toml_list(settings.names)}
            write_atomically(draft / "server.toml", _TEMPLATE.format(**fields).encode(), mode=PUBLIC)
        home = cls(root.resolve(), settings)
        home.complete()  # Flower's configuration names files by their whole path
        return home

    def complete(self) -> list[str]:
        """Add what is missing and renew what expires soon; never the authority. Return what was made.

        Raises:
            StateError: The authority is gone or damaged; it must be restored from a copy.
        """
        ca = authority.load(self.root / "ca")
        made = [f"tls/{name}.crt" for name in self.renew(ca)]
        if not (secret := self.root / "secrets" / "superexec.secret").exists():
            write_atomically(secret, os.urandom(48).hex().encode(), mode=PRIVATE)
            made.append("secrets/superexec.secret")
        if not (key := self.root / "signing" / "coordinator.key").exists():
            Key.at(key)
            made.append("signing/coordinator.key")
        if not self.revoked.exists():
            authority.write_revoked(ca, self.revoked, [])
        for folder in ("nodes", "studies", "superlink", "flwr", "logs"):
            (self.root / folder).mkdir(exist_ok=True, mode=0o700)
        write_atomically(self.root / "flwr" / "config.toml", self._flower_config().encode(), mode=PUBLIC)
        return made

    def renew(self, ca: pki.Authority | None = None) -> list[str]:
        """Make the certificates of our own servers that are absent, expire soon or lack a name; return their names.

        Raises:
            StateError: One is due, and the authority is gone or damaged.
        """
        leaves = {"gateway": tuple(map(check_host, self.settings.names)), "superlink": ("127.0.0.1", "localhost")}
        tls = self.root / "tls"
        due = [name for name, hosts in leaves.items() if authority.is_due(tls, name, hosts)]
        if due:
            ca = ca or authority.load(self.root / "ca")
            for name in due:
                authority.renew_server(ca, tls, name, leaves[name])
        return due

    def alone(self) -> AbstractContextManager[None]:
        """Hold the node records while they are changed; a second change waits for the first."""
        return locked(self.root / "nodes.lock")

    def served(self) -> AbstractContextManager[None]:
        """Hold the home for one `serve`; raises `StateError` when another holds it."""
        busy = StateError(f"{self.root} is served already. See `wardround server status`")
        return locked(self.root / "serve.lock", busy=busy, patience_s=1.0)

    def is_served(self) -> bool:
        """Whether a `serve` holds the home now."""
        return is_held(self.root / "serve.lock")

    @property
    def ca_certificate(self) -> Path:
        """The authority's certificate."""
        return self.root / "ca" / "ca.crt"

    @property
    def revoked(self) -> Path:
        """The authority's revocation list."""
        return self.root / "ca" / "revoked.crl"

    @property
    def nodes(self) -> Path:
        """Folder of the node records."""
        return self.root / "nodes"

    @property
    def superlink(self) -> str:
        """Loopback address of the SuperLink."""
        return f"127.0.0.1:{self.settings.superlink_port}"

    def study(self, name: str) -> Path:
        """Folder of a study; raises `StateError` when `name` is none."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
            raise StateError(f"{name[:64]!r} is no study's name")
        return self.root / "studies" / name

    def log(self, name: str) -> Path:
        """Log file of one process."""
        return self.root / "logs" / f"{name}.log"

    def environment(self) -> dict[str, str]:
        """Environment of every process below this home: Flower at home here, silent, and installing nothing."""
        return {
            **os.environ,
            "FLWR_HOME": str(self.root / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def _flower_config(self) -> str:
        return (
            f'[superlink]\ndefault = "{SUPERLINK}"\n\n[superlink.{SUPERLINK}]\naddress = "{self.superlink}"\n'
            f'root-certificates = "{self.ca_certificate}"\n'
        )


def split_address(address: str) -> tuple[str, int]:
    """Split "host:port", without brackets; raises `StateError` when it is not that."""
    parsed = Address.parse(address)
    return parsed.host, parsed.port


def _first_settings(host: str, names: Sequence[str], listen: str) -> Settings:
    """The settings of a new home; raises `StateError` for a host, a name or an address that is none."""
    address = Address.parse(host, port=DEFAULT_PORT)
    if not listen:
        own = address.host if address.host in _LOOPBACK else ANY if ":" in address.host else ANY_IPV4
        listen = str(Address("127.0.0.1" if own == "localhost" else own, address.port))
    superlink_port, health_port = free_ports(2)
    return Settings(
        address=str(address),
        names=tuple(dict.fromkeys((address.host, *map(check_host, names)))),
        listen=str(Address.parse(listen, port=address.port)),
        superlink_port=superlink_port,
        health_port=health_port,
    )


@contextlib.contextmanager
def _draft(root: Path) -> Iterator[Path]:
    """Yield a folder to fill; its content moves up into `root` when the block ends well, else nothing of it stays.

    It lies in `root`, which may be a mounted volume. What somebody else put there meanwhile is never touched.
    """
    was_there = root.exists()
    draft = root / f".{secrets.token_hex(8)}.draft"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        draft.mkdir(mode=0o700)
        yield draft
        if any(path != draft for path in root.iterdir()):
            raise OutputInUse(f"{root} was filled meanwhile; an authority is never made twice. Name another folder")
        for path in sorted(draft.iterdir(), key=lambda each: each.name == "server.toml"):
            path.rename(root / path.name)
    except OSError as error:
        raise StateError(f"{root} cannot be written ({error.strerror}); nothing was kept. Mend that first") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if not was_there:
            with contextlib.suppress(OSError):  # it is not empty: all went well
                root.rmdir()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that no process uses now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def toml_list(values: Sequence[str]) -> str:
    """A list of texts as TOML writes it."""
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def _require(condition: bool, key: str, rule: str) -> None:
    if not condition:
        raise StateError(f"server.toml: `{key}` must be {rule}")
