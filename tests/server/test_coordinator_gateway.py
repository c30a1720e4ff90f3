"""Attacks on the gateway, with a real SuperLink behind it: only enrolled sites get in, and only to the fleet paths."""

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto import fleet_pb2, heartbeat_pb2

from common.wire import flower_version, pki
from deploy.doctor.coordinator import sites
from server.coordinator import authority, invitations
from server.coordinator.control import SuperLink
from server.coordinator.home import Home, split_address
from server.coordinator.serve import children
from server.coordinator.status import table, text
from server.gateway import connection, gateway, peers
from tests.server.coordinators import Visitor, activate, ask, bearer, end, make_home, reconcile, wait_for

LIMIT = 16 * 1024 * 1024


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home whose SuperLink and gateway run, as `serve` would start them."""
    made = make_home(tmp_path_factory.mktemp("gateway") / "coordinator")
    wanted = [child for child in children(made) if child.name != "superexec"]
    with contextlib.ExitStack() as running:
        for child in wanted:
            with (made.root / f"{child.name}.out").open("wb") as out:
                process = subprocess.Popen(child.command, env=dict(child.env), stdout=out, stderr=out)
            running.callback(end, process)
            address = made.superlink if child.name == "superlink" else made.settings.listen
            wait_for(split_address(address))
        yield made


@pytest.fixture(scope="module")
def north(home: Home) -> Visitor:
    """An enrolled site whose node key the SuperLink knows."""
    visitor = Visitor.enrolled(home, "north")
    reconcile(home)
    return visitor


@pytest.fixture
def client(home: Home, north: Visitor, tmp_path: Path) -> Iterator[httpx.Client]:
    with north.client(home, tmp_path) as opened:
        yield opened


def refused_by_tls(home: Home, context: ssl.SSLContext) -> bool:
    """Whether a connection gets nowhere: with TLS 1.3 the refusal shows at the first read."""
    request = b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    try:
        with (
            socket.create_connection(split_address(home.settings.address), timeout=30) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(request)
            return not tls.recv(1)
    except (ssl.SSLError, ConnectionError):
        return True


def heartbeat(visitor: Visitor, client: httpx.Client, node: int) -> int:
    beat = heartbeat_pb2.SendNodeHeartbeatRequest(heartbeat_interval=30)
    beat.node.node_id = node
    return visitor.post(client, "send-node-heartbeat", beat).status_code


def test_an_enrolled_site_reaches_the_fleet(home: Home, tmp_path: Path) -> None:
    visitor = Visitor.enrolled(home, "first")
    assert reconcile(home)["first"] == "enrolled"
    with visitor.client(home, tmp_path) as opened:
        answer = visitor.post(opened, "activate-node", activate(visitor))
        assert answer.status_code == 200
        assert heartbeat(visitor, opened, fleet_pb2.ActivateNodeResponse.FromString(answer.content).node_id) == 200
    assert reconcile(home)["first"] == "online"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs", "/v1/control/register-node", "/v1/control/start-run", "/v1/runtime/acquire-task",
        "/v1/runtime/pull-app-inputs", "/docs", "/openapi.json", "/health", "/", "/v1/fleet/register-node",
        "/v1/fleet/unregister-node", "/v1/fleet/", "/v1/fleet/anything", "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs", "/v1/fleet%2factivate-node", "//v1/fleet/activate-node",
        "/V1/FLEET/activate-node", "/v1/fleet/activate-node/", "/v1/fleet/activate-node?x=1",
        "/v1/fleet/activate-node;x", "/v1/fleet/activate-node%00",
    ],
)  # fmt: skip
def test_nothing_but_the_fleet_paths_is_there_even_for_an_enrolled_site(
    home: Home, north: Visitor, tmp_path: Path, path: str
) -> None:
    body = activate(north).SerializeToString()
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in north.headers().items()]
    answer = raw_request(home, north.context(tmp_path), "\r\n".join([*lines, "", ""]).encode() + body)
    assert answer.split(b" ", 2)[1] == b"404"
    assert answer.endswith(b"\r\n\r\n")


def raw_request(home: Home, context: ssl.SSLContext, content: bytes) -> bytes:
    """Send bytes as they are; return all that comes back."""
    answer = b""
    with (
        socket.create_connection(split_address(home.settings.address), timeout=60) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        contextlib.suppress(ConnectionError, ssl.SSLEOFError),
    ):
        tls.sendall(content)
        while part := tls.recv(65536):
            answer += part
    return answer


def test_a_site_of_another_minor_that_was_tried_is_let_in_and_one_of_any_other_is_refused_with_both_versions(
    home: Home, tmp_path: Path
) -> None:
    ours = flower_version.installed()
    (other,) = flower_version.TOGETHER - {flower_version.minor(ours)}
    visitors = {name: Visitor.enrolled(home, name) for name in ("same", "tried", "mixed")}
    reconcile(home)
    beat = heartbeat_pb2.SendNodeHeartbeatRequest(heartbeat_interval=30)
    for name, visitor in visitors.items():  # each is another site: of one site, a change is noted once a minute
        (folder := tmp_path / name).mkdir()
        with visitor.client(home, folder) as client:
            answer = visitor.post(client, "activate-node", activate(visitor))
            beat.node.node_id = fleet_pb2.ActivateNodeResponse.FromString(answer.content).node_id
            body = beat.SerializeToString()
            if name == "mixed":
                judge_refused(home, visitor, client, ours, body)
                continue
            version = ours if name == "same" else f"{other}.0"
            answer = ask(visitor, client, body, version)
            assert answer.status_code == 200
            assert answer.headers[flower_version.HEADER] == ours
            assert peers.read(home.root)[name] == version


def judge_refused(home: Home, visitor: Visitor, client: httpx.Client, ours: str, body: bytes) -> None:
    refused = ask(visitor, client, body, "1.2.0")
    assert (refused.status_code, refused.content) == (flower_version.REFUSED, b"")
    assert refused.headers[flower_version.HEADER] == ours
    assert peers.read(home.root)["mixed"] == "1.2.0"
    assert table(home)["sites"]["mixed"]["flower"] == "1.2.0"
    assert f"mixed: enrolled (Flower 1.2.0, ours is {ours}: not tried here" in text(table(home))
    found = {finding.finding: finding.level for finding in sites(home) if "1.2.0" in finding.finding}
    assert list(found.values()) == ["warning"]
    assert ask(visitor, client, body, "1.2.0", tried="1.3 1.2").status_code == flower_version.REFUSED
    tried = f"1.2 {flower_version.minor(ours)}"
    assert ask(visitor, client, body, "1.2.0", tried=tried).status_code == 200, "that site has tried it"
    assert ask(visitor, client, body, "[red]x").status_code == 200, "no version at all, as Flower before it said one"
    assert peers.read(home.root)["mixed"] == "1.2.0"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused_with_an_empty_body(client: httpx.Client, north: Visitor, method: str) -> None:
    answer = client.request(method, "/v1/fleet/activate-node", headers=north.headers())
    assert (answer.status_code, answer.content) == (404, b"")


def test_a_client_without_a_certificate_is_refused(home: Home) -> None:
    assert refused_by_tls(home, ssl.create_default_context(cafile=home.ca_certificate))


def test_a_certificate_of_a_foreign_authority_is_refused(home: Home, north: Visitor, tmp_path: Path) -> None:
    key, foreign = pki.new_key(), pki.make_authority("wardround 127.0.0.1")
    certificate = pki.issue_client(foreign, pki.make_request(key, "north"), "north")
    assert refused_by_tls(home, bearer(home, tmp_path, certificate, key))


def test_an_expired_certificate_is_refused(home: Home, north: Visitor, tmp_path: Path) -> None:
    ca, key = authority.load(home.root / "ca"), pki.new_key()
    certificate = pki.issue_client(ca, pki.make_request(key, "north"), "north", days=-1)
    assert refused_by_tls(home, bearer(home, tmp_path, certificate, key))


def test_a_server_certificate_does_not_serve_as_a_clients(home: Home, tmp_path: Path) -> None:
    ca, key = authority.load(home.root / "ca"), pki.new_key()
    certificate = pki.issue_server(ca, key.public_key(), ["north"])
    assert refused_by_tls(home, bearer(home, tmp_path, certificate, key))


def test_a_certificate_that_no_record_knows_is_refused_though_our_authority_signed_it(
    home: Home, north: Visitor, tmp_path: Path
) -> None:
    ca, key = authority.load(home.root / "ca"), pki.new_key()
    certificate = pki.issue_client(ca, pki.make_request(key, "north"), "north")
    with httpx.Client(base_url=f"https://{home.settings.address}", verify=bearer(home, tmp_path, certificate, key),
                      trust_env=False) as opened:  # fmt: skip
        answer = north.post(opened, "activate-node", activate(north))
    assert (answer.status_code, answer.content) == (403, b"")


def test_one_sites_certificate_does_not_carry_another_sites_node_key(
    home: Home, north: Visitor, tmp_path: Path
) -> None:
    thief = Visitor.enrolled(home, "thief")
    with thief.client(home, tmp_path) as opened:
        answer = north.post(opened, "activate-node", activate(north))
        assert (answer.status_code, answer.content) == (403, b"")
        thief.node_key = pki.new_key()
        assert thief.post(opened, "activate-node", activate(thief)).status_code == 403
        assert opened.post("/v1/fleet/activate-node", content=b"").status_code == 403


def test_a_node_the_superlink_does_not_know_is_refused_by_it(home: Home, tmp_path: Path) -> None:
    early = Visitor.enrolled(home, "early")
    with early.client(home, tmp_path) as opened:
        assert early.post(opened, "activate-node", activate(early)).status_code == 412
        reconcile(home)
        assert early.post(opened, "activate-node", activate(early)).status_code == 200


def test_a_signature_by_another_key_is_refused_by_the_superlink(north: Visitor, client: httpx.Client) -> None:
    forged = {**north.headers(), "flwr-signature": Visitor.headers(
        Visitor(north.site, pki.new_key(), north.client_key, north.welcome))["flwr-signature"]}  # fmt: skip
    answer = client.post("/v1/fleet/activate-node", content=activate(north).SerializeToString(), headers=forged)
    assert answer.status_code == 401


def test_a_revoked_site_is_refused_at_once_on_its_open_connection_and_on_a_new_one(home: Home, tmp_path: Path) -> None:
    leaver = Visitor.enrolled(home, "leaver")
    reconcile(home)
    with leaver.client(home, tmp_path) as opened:
        assert leaver.post(opened, "activate-node", activate(leaver)).status_code == 200
        invitations.revoke(home, "leaver")
        assert leaver.post(opened, "activate-node", activate(leaver)).status_code == 403
    with leaver.client(home, tmp_path) as anew:
        assert leaver.post(anew, "activate-node", activate(leaver)).status_code == 403
    reconcile(home)
    with SuperLink(home) as link:
        assert leaver.public_key not in {node.key for node in link.nodes()}


def test_the_revocation_list_is_held_by_tls_itself(home: Home, tmp_path: Path) -> None:
    gone = Visitor.enrolled(home, "gone")
    invitations.revoke(home, "gone")
    server, client = gateway.tls_context(home), gone.context(tmp_path)
    ends = [ssl.MemoryBIO() for _ in range(4)]
    there = server.wrap_bio(ends[0], ends[1], server_side=True)
    here = client.wrap_bio(ends[1], ends[0], server_hostname="127.0.0.1")

    def shake_hands() -> None:
        for side in [here, there] * 5:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()

    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shake_hands()


def test_a_body_over_the_limit_is_refused_announced_or_not(north: Visitor, client: httpx.Client) -> None:
    assert north.post(client, "push-object", b"x" * (LIMIT + 1)).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(LIMIT // 65536 + 1):
            yield b"x" * 65536

    answer = client.post("/v1/fleet/push-object", content=endless(), headers=north.headers())
    assert (answer.status_code, answer.content) == (413, b"")


def test_a_body_that_only_announces_too_much_is_refused_before_it_comes(
    home: Home, north: Visitor, tmp_path: Path
) -> None:
    signed = "".join(f"{key}: {value}\r\n" for key, value in north.headers().items())
    start = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: {LIMIT + 1}\r\n{signed}\r\n"
    assert raw_request(home, north.context(tmp_path), start.encode())[9:12] == b"413"


@pytest.mark.parametrize("body", [b"", b"\xff" * 1000, b"{}", b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_malformed_body_is_refused_and_harms_nobody(home: Home, tmp_path: Path, body: bytes) -> None:
    visitor = Visitor.enrolled(home, "mangled")
    reconcile(home)
    with visitor.client(home, tmp_path) as opened:
        assert 400 <= visitor.post(opened, "push-messages", body).status_code < 500
        assert visitor.post(opened, "activate-node", activate(visitor)).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST /v1/fleet/activate-node HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_a_malformed_request_never_reaches_the_superlink(
    home: Home, north: Visitor, tmp_path: Path, content: bytes
) -> None:
    answer = raw_request(home, north.context(tmp_path), content)
    assert answer[9:12] in (b"400", b"403", b""), answer[:40]


def test_a_request_that_trickles_in_is_cut_off(
    home: Home, north: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEADER_S", 0.5)
    monkeypatch.setattr(gateway, "PAUSE_S", 0.5)
    context = north.context(tmp_path)
    length = "Content-Length: 100\r\n"
    signed = "".join(f"{key}: {value}\r\n" for key, value in north.headers().items())
    start = "POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\n"

    async def attack(port: int) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
        writer.write(start.encode())
        headers_only = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
        writer.write((start + length + signed + "\r\nx").encode())
        half_a_body = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return headers_only, half_a_body

    headers_only, half_a_body = asyncio.run(beside_own_gateway(home, attack))
    assert headers_only == b""
    assert half_a_body.startswith(b"HTTP/1.1 408")


async def beside_own_gateway(home: Home, attack: object) -> tuple[bytes, bytes]:
    """Run `attack(port)` against a gateway in this process, whose limits a test can shorten."""
    server = gateway.uvicorn.Server(gateway.config(home))
    server.config.port = 0
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        return await attack(port)  # type: ignore[operator,no-any-return]
    finally:
        server.should_exit = True
        await task


def test_the_gateway_says_502_while_the_superlink_is_away_and_recovers(
    home: Home, north: Visitor, tmp_path: Path
) -> None:
    away = Home(home.root, gateway.Home.open(home.root).settings.__class__(
        **{**vars(home.settings), "superlink_port": 1}))  # fmt: skip
    context = north.context(tmp_path)

    async def knock(port: int) -> tuple[bytes, bytes]:
        async with httpx.AsyncClient(verify=context, trust_env=False) as opened:
            url = f"https://127.0.0.1:{port}/v1/fleet/activate-node"
            answer = await opened.post(url, headers=north.headers(), content=b"x")
        return str(answer.status_code).encode(), answer.content

    assert asyncio.run(beside_own_gateway(away, knock)) == (b"502", b"")


def test_a_proxy_in_the_environment_is_not_asked_for_our_own_superlink(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    reconcile(home)
    assert os.environ["NO_PROXY"].split(",") == ["example.org", "127.0.0.1", "localhost"]


def test_the_superlink_believes_only_loopback_and_other_namespaces_cannot_reach_it(home: Home) -> None:
    probe = (
        "import socket, sys\n"
        "s = socket.socket(); s.settimeout(5)\n"
        f"sys.exit(s.connect_ex(('127.0.0.1', {home.settings.superlink_port})) == 0)"
    )
    command = ["unshare", "--net", sys.executable, "-c", probe]
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network namespace of our own is not permitted here")
    assert subprocess.run([sys.executable, "-c", probe], check=False, timeout=60).returncode == 1, "the probe works"
    assert subprocess.run(command, check=False, timeout=60).returncode == 0


def test_only_the_gateway_may_listen_beyond_loopback(home: Home) -> None:
    everywhere = Home(home.root, Home.open(home.root).settings)
    commands = {child.name: child.command for child in children(everywhere)}
    superlink = list(commands["superlink"])
    assert superlink[superlink.index("--host") + 1] == "127.0.0.1"
    assert "--enable-supernode-auth" in superlink
    assert superlink[superlink.index("--isolation") + 1] == "process"
    assert "--superexec-auth-secret-file" in superlink
    assert "--disable-runtime-dependency-installation" in superlink
    assert "--insecure" not in superlink
