"""Inviting, enrolling, renewing and revoking sites: pure work on the home's files, no network.

`serve` carries every change to the SuperLink and the gateway within seconds; without it, the files wait.
"""

import contextlib
import dataclasses
import datetime
import re
import secrets
from typing import Any

from common.errors import MessageRefused, StateError
from common.wire import pki
from common.wire.enrolment import Invite, JoinRequest, Welcome
from server.coordinator import authority
from server.coordinator.home import Home
from server.coordinator.nodes import Node, all_nodes, find
from server.study import signers

INVITE_DAYS = 14


def invite(home: Home, site: str, *, days: float = INVITE_DAYS) -> Invite:
    """Make an invite for a new site, or a new invite for one that lost its keys; the old invite ends.

    A site that is enrolled stays so until the request that answers the invite is accepted.

    Args:
        home: The coordinator's home.
        site: Name the site will have.
        days: How long the invite may be used.

    Raises:
        StateError: `site` is no site name, or the authority is gone; an older invite stays good.
    """
    expires = (_now() + datetime.timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ca = authority.load(home.root / "ca").certificate
    with home.alone():
        known = find(home.nodes, site) or Node(site=site, state="invited")
        state = "invited" if known.state == "revoked" else known.state
        node = dataclasses.replace(known, state=state, token=secrets.token_urlsafe(32), token_expires=expires)
        node.save(home.nodes)
    return Invite(
        site=site,
        address=home.settings.address,
        ca_certificate=pki.pem(ca),
        token=node.token,
        expires=expires,
    )


def enrol(home: Home, request: JoinRequest) -> Welcome:
    """Accept a site's request: check all of it, then issue its certificate and record its node key.

    Args:
        home: The coordinator's home.
        request: An answer to an invite, or a renewal signed by the key of the certificate in force.

    Raises:
        MessageRefused: The request is not proven, its invite was used or has expired, or its node key is another
            site's.
        StateError: Its keys or its certificate request cannot be used.
    """
    with home.alone():
        certificate = _accept(home, request)
    return Welcome(
        site=request.site,
        address=home.settings.address,
        certificate=certificate,
        ca_certificate=pki.pem(authority.load(home.root / "ca").certificate),
    )


def revoke(home: Home, site: str) -> Node:
    """End a site's access: its certificate, its node key and any open invite. Its record stays.

    Raises:
        StateError: There is no such site.
    """
    with home.alone():
        return _revoke(home, site)


def _revoke(home: Home, site: str) -> Node:
    node = find(home.nodes, site)
    if node is None:
        raise StateError(f"no site {site!r} is known here. `wardround server status` lists them")
    changes: dict[str, Any] = {
        "state": "revoked", "token": "", "token_expires": "", "node_key": "", "certificate": "", "previous": "",
        "revoked_serials": (*node.revoked_serials, *node.serials),
        "retired_keys": (*node.retired_keys, *filter(None, [node.node_key])),
    }  # fmt: skip
    revoked = dataclasses.replace(node, **changes).save(home.nodes)
    write_revoked(home)
    return revoked


def write_revoked(home: Home) -> None:
    """Write the revocation list from the records; what was on it stays, should a record be damaged."""
    serials = [int(serial, 16) for node in all_nodes(home.nodes)[0] for serial in node.revoked_serials]
    authority.write_revoked(
        authority.load(home.root / "ca"), home.revoked, [*serials, *authority.read_revoked(home.revoked)]
    )


def write_signers(home: Home) -> None:
    """Write what the gate of every study compares verdicts with: each site's verdict key, a revoked site's, too."""
    known = {node.site: node.verdict_key for node in all_nodes(home.nodes)[0] if node.verdict_key}
    with contextlib.suppress(StateError):  # what a damaged record said before is kept
        known = signers.load(home.root) | known
    signers.save(home.root, known)


def _accept(home: Home, request: JoinRequest) -> str:
    """Check a request, issue its certificate, record both; return the certificate, PEM."""
    node = find(home.nodes, request.site)
    if node is None or node.state == "revoked":
        raise MessageRefused(f"{request.site!r} is not invited. Run `wardround server invite {request.site}`")
    if request.signature:
        _require_renewal(node, request)
    else:
        _require_invited(node, request)
    key_line = pki.openssh(pki.read_openssh(request.node_key))
    _require_own_key(home, node, key_line)
    _require_verdict_key(home, node, request)
    ca = authority.load(home.root / "ca")
    certificate = pki.pem(pki.issue_client(ca, pki.read_request(request.csr), node.site))
    changes: dict[str, Any] = {"certificate": certificate, "previous": node.certificate,
                               "verdict_key": request.verdict_key,
                               "revoked_serials": (*node.revoked_serials, *node.serials[1:])}  # fmt: skip
    if not request.signature:
        old = (node.node_key,) if node.node_key not in ("", key_line) else ()
        changes |= {
            "state": "enrolled", "token": "", "token_expires": "", "node_key": key_line, "previous": "",
            "revoked_serials": (*node.revoked_serials, *node.serials), "retired_keys": (*node.retired_keys, *old),
        }  # fmt: skip
    dataclasses.replace(node, **changes).save(home.nodes)
    write_revoked(home)
    write_signers(home)
    return certificate


def _require_invited(node: Node, request: JoinRequest) -> None:
    if not node.token:
        raise MessageRefused(
            f"the invite of {node.site!r} was used or withdrawn. Run `wardround server invite {node.site}` again"
        )
    if _now() > datetime.datetime.fromisoformat(node.token_expires):
        raise MessageRefused(
            f"the invite of {node.site!r} expired at {node.token_expires}. Run `wardround server invite {node.site}`"
        )
    request.require_proof(node.token)


def _require_renewal(node: Node, request: JoinRequest) -> None:
    if node.state != "enrolled":
        raise MessageRefused(f"{node.site!r} is {node.state}, so it has no certificate to renew. Invite it")
    if pki.openssh(pki.read_openssh(request.node_key)) != node.node_key:
        raise MessageRefused(f"a renewal keeps the node key of {node.site!r}. Invite the site for a new one")
    request.require_signature(node.certificates[0])


def _require_own_key(home: Home, node: Node, key_line: str) -> None:
    if key_line in node.retired_keys:
        raise MessageRefused(
            f"the node key of {node.site!r} was revoked; the SuperLink never takes it again. The site moves its "
            "`identity` folder aside and joins by this invite with new keys"
        )
    for other in all_nodes(home.nodes)[0]:
        if other.site != node.site and key_line in (other.node_key, *other.retired_keys):
            raise MessageRefused(f"the node key of {node.site!r} is that of {other.site!r}. Each site makes its own")


def _require_verdict_key(home: Home, node: Node, request: JoinRequest) -> None:
    """A site's own, well-formed, and in a renewal the one on record, unless none is: older sites had none to send."""
    if not re.fullmatch(r"[0-9a-f]{64}", request.verdict_key):
        raise MessageRefused(f"the request of {node.site!r} holds no verdict key. Ask for it again, of this version")
    if request.signature and node.verdict_key not in ("", request.verdict_key):
        raise MessageRefused(f"a renewal keeps the verdict key of {node.site!r}. Invite the site for a new one")
    if any(other.verdict_key == request.verdict_key for other in all_nodes(home.nodes)[0] if other.site != node.site):
        raise MessageRefused(f"the verdict key of {node.site!r} is another site's. Each site makes its own")


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
