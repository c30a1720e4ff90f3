"""Checks of the machine and the installation, the same on both sides."""

import importlib.metadata
import importlib.util
import ipaddress
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from deploy.doctor.finding import Finding, failure, ok, warning

OURS = ("client", "common", "deploy", "server")
CRITICAL = ("flwr", "torch", "opacus", "cryptography", "safetensors")
LEAST_DISK, LITTLE_DISK = 1 << 30, 5 << 30
_LISTENERS = ("flower-", "flwr", "raylet", "gcs_server", "ray::", "/ray/", "wardround", "deploy.cli", "client.daemon")


def packages(
    owners: Mapping[str, Sequence[str]] | None = None, places: Mapping[str, Path | None] | None = None
) -> Iterator[Finding]:
    """Who owns our four package names, and whether Python finds ours and not somebody else's.

    Args:
        owners: Distributions by top-level name; default those that are installed.
        places: File that Python would import for each name; default what it finds.
    """
    owners = importlib.metadata.packages_distributions() if owners is None else owners
    places = {name: _place(name) for name in OURS} if places is None else places
    home = Path(__file__).resolve().parents[2]
    for name in OURS:
        strangers = sorted(set(owners.get(name, ())) - {"wardround"})
        place = places.get(name)
        if place is None or home not in place.resolve().parents:
            yield failure(
                "packages", f"`import {name}` finds {place}, not wardround's",
                "Run from another folder, and uninstall what owns it", blocks=True,
            )  # fmt: skip
        elif strangers:
            yield failure(
                "packages", f"{', '.join(strangers)} installs a package {name!r}, too",
                f"pip uninstall {' '.join(strangers)}, then reinstall wardround", blocks=True,
            )  # fmt: skip
    if all(places.get(name) is not None for name in OURS) and not any(
        set(owners.get(n, ())) - {"wardround"} for n in OURS
    ):
        yield ok("packages", "client, common, deploy and server are wardround's own")


def _place(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    return Path(found.origin) if found is not None and found.origin else None


def versions(installed: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Whether the libraries that privacy and transport rest on are of the versions wardround was tested with.

    Args:
        installed: Version by distribution; default those that are installed.
    """
    wanted = {
        need.name: need for need in map(Requirement, importlib.metadata.requires("wardround") or ()) if not need.marker
    }
    seen = []
    for name in CRITICAL:
        try:
            version = importlib.metadata.version(name) if installed is None else installed[name]
        except (importlib.metadata.PackageNotFoundError, KeyError):
            yield failure("versions", f"{name} is not installed", "Reinstall wardround", blocks=True)
            continue
        seen.append(f"{name} {version}")
        need = wanted.get(name)
        if need is not None and not need.specifier.contains(version, prereleases=True):
            yield failure(
                "versions", f"{name} is {version}, not {need.specifier}", f'pip install "{need}"', blocks=name == "flwr"
            )
    python = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        yield failure("versions", f"Python is {python}", "Install Python 3.11 or 3.12", blocks=True)
    yield ok("versions", ", ".join([f"Python {python}", *seen]))


def disk(home: Path, *, free: int | None = None) -> Iterator[Finding]:
    """Whether the disk of the home has room for caches, ledgers and checkpoints."""
    free = shutil.disk_usage(home).free if free is None else free
    said = f"{free / (1 << 30):.1f} GiB are free"
    if free < LEAST_DISK:
        yield failure("disk", said, "Free space or move the home: a round that cannot be booked is refused")
    elif free < LITTLE_DISK:
        yield warning("disk", said, "Free space before the next study")
    else:
        yield ok("disk", said)


def listeners(allowed: Sequence[int] = (), *, processes: Sequence[psutil.Process] | None = None) -> Iterator[Finding]:
    """Whether anything of Flower's, Ray's or ours listens beyond loopback.

    Args:
        allowed: Ports that are meant to be reached from outside: the gateway's.
        processes: Where to look; default every process of this user.
    """
    found = False
    for process in psutil.process_iter() if processes is None else processes:
        try:
            command = " ".join(process.cmdline())
            open_ports = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if not any(word in command for word in _LISTENERS):
            continue
        for connection in open_ports:
            if not _loopback(connection.laddr.ip) and connection.laddr.port not in allowed:
                found = True
                yield failure(
                    "listeners", f"{process.name()} (process {process.pid}) listens on {connection.laddr.ip}:"
                    f"{connection.laddr.port}, beyond this machine",
                    "Stop it; Ray and the SuperLink have no login and run any code that they are sent",
                )  # fmt: skip
    if not found:
        yield ok("listeners", "nothing of Flower, Ray or wardround listens beyond loopback")


def _loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
