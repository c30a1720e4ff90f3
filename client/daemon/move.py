"""Following a coordinator to another address: asked there first, changed only if it is the one we trust."""

import dataclasses
import ssl

import httpx

from client.daemon.forwarder import proxy_for, why
from client.daemon.home import Coordinator, DaemonHome, client_context
from client.site.rules import SitePolicy
from common.errors import StateError
from common.wire.addresses import Address

_TIMEOUT_S = 20.0


def move(home: DaemonHome, address: str, *, unasked: bool = False) -> Coordinator:
    """Change where the coordinator's gateway is; a running daemon goes there within seconds.

    The authority that was checked by telephone stays the only one that is believed, so a wrong address can cost the
    connection and nothing else.

    Args:
        home: The site's home.
        address: "host:port" of the gateway; without a port the present one stays.
        unasked: Change it even if no coordinator answers there yet.

    Raises:
        StateError: It is no address, this site has joined no coordinator, or who answers there is not ours; nothing was
            changed.
    """
    known, policy = Coordinator.load(home), SitePolicy.load(home.home)
    moved = dataclasses.replace(known, address=str(Address.parse(address, port=Address.parse(known.address).port)))
    context = client_context(home)
    if not unasked:
        _ask(moved, context, proxy_for(moved, policy.daemon.proxy))
    moved.save(home)
    return moved


def _ask(coordinator: Coordinator, context: ssl.SSLContext, proxy: str) -> None:
    """Send one request; with any answer, our gateway has shown its certificate."""
    try:
        with httpx.Client(verify=context, proxy=proxy or None, trust_env=False, timeout=_TIMEOUT_S) as client:
            client.get(f"https://{coordinator.address}/")
    except (httpx.HTTPError, ssl.SSLError, OSError) as error:
        raise StateError(
            f"our coordinator does not answer at {coordinator.address} ({why(error)}); nothing was changed. Ask the "
            "coordinator for the address, or add --unasked"
        ) from error
