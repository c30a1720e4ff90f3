"""Giving the coordinator another address: `server.toml`, the gateway's certificate, and what hospitals are told."""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

from common.errors import StateError
from common.host.files import PUBLIC, write_atomically
from common.plan.reader import build
from common.wire.addresses import Address, check_host
from server.coordinator.home import DEFAULT_PORT, Home, Settings, toml_list


def move(home: Home, host: str, *, names: Sequence[str] = (), listen: str = "") -> Home:
    """Change what hospitals connect to. The old names stay in the certificate until they are taken out by hand.

    A running gateway takes the new certificate up by itself; another `listen` needs `serve` to start again.

    Args:
        home: The coordinator's home.
        host: "name[:port]" that hospitals will connect to; without a port the present one stays.
        names: More host names or addresses for the gateway's certificate.
        listen: "address:port" to bind; "" leaves it.

    Raises:
        StateError: Something of this is no address, or server.toml is laid out in a way that cannot be changed safely;
            nothing was changed.
    """
    old = home.settings
    address = Address.parse(host, port=Address.parse(old.address).port or DEFAULT_PORT)
    changes = {
        "address": json.dumps(str(address)),
        "names": toml_list(tuple(dict.fromkeys(map(check_host, (address.host, *names, *old.names))))),
        **({"listen": json.dumps(str(Address.parse(listen, port=address.port)))} if listen else {}),
    }
    path = home.root / "server.toml"
    text = _changed(path.read_text(encoding="utf-8"), changes)
    settings = _settings(text, path)
    wanted = {key: tomllib.loads(f"x = {value}")["x"] for key, value in changes.items()}
    if settings is None or any(_plain(getattr(settings, key)) != value for key, value in wanted.items()):
        raise StateError(f"{path} is laid out in a way that cannot be changed safely here. Edit it by hand")
    moved = Home(home.root, settings)
    write_atomically(path, text.encode(), mode=PUBLIC)
    moved.renew()
    return moved


def _changed(text: str, changes: dict[str, str]) -> str:
    for key, value in changes.items():
        text = re.sub(rf"(?m)^{key}\s*=.*$", lambda _, line=f"{key} = {value}": line, text, count=1)  # type: ignore[misc]
    return text


def _settings(text: str, path: Path) -> Settings | None:
    try:
        return build(Settings, tomllib.loads(text), what=path.name, error=StateError)
    except (ValueError, StateError):
        return None


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
