"""An address as people write it, "host:port": a name, an IPv4 address, or an IPv6 address in brackets.

A bare IPv6 address is taken where a port may be left out: its last colon is its own and never stands before a port.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from common.errors import StateError

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Address:
    """Where something listens.

    Attributes:
        host: Name or address, without brackets; an IPv6 address in its one canonical form.
        port: From 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, port: int = 0) -> Self:
        """Read "host:port".

        Args:
            text: As it was written.
            port: Taken where `text` has none; 0 asks for one.

        Raises:
            StateError: It is no address, or lacks its port.
        """
        host, given = _parts(text)
        if not given and not port:
            raise _wrong(text)
        if given and not (given.isascii() and given.isdigit() and 1 <= int(given) <= 65535):
            raise _wrong(text)
        return cls(check_host(host), int(given or port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def check_host(host: str) -> str:
    """Return a host name or an IP address in its canonical form; raises `StateError` when it is neither."""
    try:
        return str(ipaddress.ip_address(host)) if "%" not in host else _no_host(host)
    except ValueError:
        pass
    return host if _NAME.fullmatch(host) and not re.fullmatch(r"[\d.]+", host) else _no_host(host)


def _parts(text: str) -> tuple[str, str]:
    """Host, and port or ""."""
    if bracketed := re.fullmatch(r"\[([^\[\]]*:[^\[\]]*)\](?::(.+))?", text):
        return bracketed[1], bracketed[2] or ""
    if text.count(":") > 1:  # IPv6 without brackets: no colon of it stands before a port
        return text, ""
    host, _, port = text.partition(":")
    if text.endswith(":"):
        raise _wrong(text)
    return host, port


def _wrong(text: str) -> StateError:
    return StateError(f"{text[:80]!r} is no address. Write it as HOST:PORT, an IPv6 address as [ADDRESS]:PORT")


def _no_host(host: str) -> str:
    raise StateError(f"{host[:60]!r} is neither a host name nor an IP address")
