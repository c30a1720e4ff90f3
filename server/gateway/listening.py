"""The sockets on which the gateway listens, IPv4 and IPv6 alike."""

import contextlib
import resource
import socket

from common.errors import StateError
from server.coordinator.home import ANY, split_address

_BACKLOG = 2048


def listeners(listen: str) -> list[socket.socket]:
    """Open the sockets of an address; "[::]:PORT" takes IPv4, too.

    Args:
        listen: "address:port"; a name may stand for several addresses.

    Raises:
        StateError: It cannot be bound; no socket stays open.
    """
    host, port = split_address(listen)
    with contextlib.ExitStack() as failed:
        try:
            if host == ANY:
                opened = [socket.create_server((host, port), family=socket.AF_INET6, backlog=_BACKLOG,
                                               dualstack_ipv6=True)]  # fmt: skip
            else:
                opened = []
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                for family, address in dict.fromkeys((each[0], each[4][:2]) for each in found):
                    opened.append(failed.enter_context(socket.create_server(address, family=family, backlog=_BACKLOG)))
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise StateError(
                f"{listen} cannot be bound ({why}). Stop what holds it, or set `listen` in server.toml"
            ) from error
        failed.pop_all()
    return opened


def allow_many_connections() -> None:
    """Take as many open files as the system lets this process have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
