"""The forwarder, a real process, between a caller on loopback and a gateway that asks for a certificate."""

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from client.daemon import checks, join
from client.daemon.forwarder import INSTANCE, MAX_BYTES
from client.daemon.home import DaemonHome
from client.daemon.meter import Link
from client.site.rules_file import init
from common.host import clocks
from common.wire import pki
from server.coordinator.home import free_ports
from tests.client.daemon_lab import environment, read, wait_until
from tests.client.test_daemon_join import AUTHORITY, FINGERPRINT, OTHER, invite, welcome


@dataclass
class Gateway:
    """An HTTPS server that demands a certificate of the authority and does as it is told."""

    folder: Path
    authority: pki.Authority = AUTHORITY
    port: int = field(default_factory=lambda: free_ports(1)[0])
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200
    cut: bool = False
    flower: str = ""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        self.seen.append((request.url.path, dict(request.headers), await request.body()))
        headers = {"content-type": "application/protobuf", "x-internal": "no"}
        headers |= {"wardround-flower": self.flower} if self.flower else {}
        if self.cut:

            async def half() -> Any:
                yield b"half"
                raise ConnectionError

            response: Response = StreamingResponse(half(), headers={**headers, "content-length": "4000"})
        else:
            response = Response(b"answer", self.status, headers)
        await response(scope, receive, send)

    @contextmanager
    def running(self) -> Iterator["Gateway"]:
        key = pki.new_key()
        pki.save_key(self.folder / "gateway.key", key)
        pki.save_certificate(
            self.folder / "gateway.crt", pki.issue_server(self.authority, key.public_key(), ["127.0.0.1"])
        )
        pki.save_certificate(self.folder / "gateway.ca", AUTHORITY.certificate)
        server = uvicorn.Server(
            uvicorn.Config(
                self.app, host="127.0.0.1", port=self.port, log_config=None, lifespan="off", ws="none",
                interface="asgi3",
                ssl_certfile=self.folder / "gateway.crt", ssl_keyfile=str(self.folder / "gateway.key"),
                ssl_ca_certs=str(self.folder / "gateway.ca"), ssl_cert_reqs=ssl.CERT_REQUIRED,
            )
        )  # fmt: skip
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started, "the gateway")
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(30)


class Proxy:
    """A web proxy that knows CONNECT."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.asked: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            request = client.recv(65536).decode()
            self.asked.append(request.split("\r\n")[0])
            host, port = request.split()[1].rsplit(":", 1)
            upstream = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        sink.close()


@dataclass
class Forwarder:
    home: DaemonHome
    process: subprocess.Popen[bytes]
    client: httpx.Client

    def post(self, path: str = "/v1/fleet/pull-messages", content: bytes = b"question") -> httpx.Response:
        return self.client.post(path, content=content, headers={"flwr-signature": "s", "cookie": "c", "host": "evil"})

    @property
    def link(self) -> dict[str, Any]:
        return read(self.home.link)


def joined(folder: Path, port: int) -> DaemonHome:
    init(folder / "north", "north")
    home = DaemonHome(folder / "north")
    request = join.answer(home, invite(address=f"127.0.0.1:{port}"), fingerprint=FINGERPRINT)
    paper = welcome(request)
    join.install(home, type(paper)(**{**vars(paper), "address": f"127.0.0.1:{port}"}))
    return home


@contextmanager
def forwarding(folder: Path, port: int, **env: str) -> Iterator[Forwarder]:
    home = joined(folder, port)
    (own,) = free_ports(1)
    command = [sys.executable, "-P", "-m", "client.daemon.forwarder", str(home.home), str(own)]
    process = subprocess.Popen(command, env={**environment(), **env}, cwd=folder)
    context = ssl.create_default_context(cafile=home.loopback / "ca.crt")
    try:
        with httpx.Client(base_url=f"https://127.0.0.1:{own}", verify=context, trust_env=False, timeout=60) as client:
            wait_until(lambda: listening(own) or process.poll() is not None, "the forwarder")
            yield Forwarder(home, process, client)
    finally:
        process.terminate()
        process.wait(30)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Forwarder]]:
    folder = tmp_path_factory.mktemp("forwarder")
    with Gateway(folder).running() as gateway, forwarding(folder, gateway.port) as forwarder:
        yield gateway, forwarder


def test_a_fleet_call_arrives_as_it_was_sent_and_so_does_its_answer(pair: tuple[Gateway, Forwarder]) -> None:
    gateway, forwarder = pair
    gateway.seen.clear()
    body = os.urandom(3_000_000)
    answer = forwarder.post(content=body)
    assert (answer.status_code, answer.content) == (200, b"answer")
    assert "x-internal" not in answer.headers
    ((path, headers, content),) = gateway.seen
    assert (path, content) == ("/v1/fleet/pull-messages", body)
    assert headers["flwr-signature"] == "s"
    assert "cookie" not in headers
    assert headers["host"] == f"127.0.0.1:{gateway.port}"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/fleet/pull-messages"),
        ("PUT", "/v1/fleet/pull-messages"),
        ("POST", "/v1/fleet/register-node"),
        ("POST", "/v1/fleet/unregister-node"),
        ("POST", "/v1/fleet/a/b"),
        ("POST", "/v1/fleet/..%2Fcontrol%2Flist-runs"),
        ("POST", "/v1/fleet/../control/list-runs"),
        ("POST", "/v1/fleet/pull-messages?x=1"),
        ("POST", "/v1/fleet/Pull"),
        ("POST", "/v1/control/list-runs"),
        ("POST", "/v1/runtime/acquire-task"),
        ("GET", "/docs"),
        ("POST", "https://example.org/v1/fleet/pull-messages"),
    ],
)
def test_nothing_but_fleet_calls_leaves(pair: tuple[Gateway, Forwarder], method: str, path: str) -> None:
    gateway, forwarder = pair
    gateway.seen.clear()
    if path.startswith("https://"):  # as one asks a proxy
        request = forwarder.client.build_request(method, "/v1/fleet/pull-messages")
        request.extensions["target"] = path.encode()
        assert forwarder.client.send(request).status_code in (200, 400, 404)
        assert all(headers["host"] == f"127.0.0.1:{gateway.port}" for _, headers, _ in gateway.seen)
        return
    assert forwarder.client.request(method, path, content=b"x").status_code in (403, 404, 405)
    assert gateway.seen == []


def test_a_body_too_large_is_refused_here(pair: tuple[Gateway, Forwarder]) -> None:
    gateway, forwarder = pair
    gateway.seen.clear()
    assert forwarder.post(content=bytes(MAX_BYTES + 1)).status_code == 413
    assert gateway.seen == []


def test_the_coordinators_refusal_is_passed_on(pair: tuple[Gateway, Forwarder]) -> None:
    gateway, forwarder = pair
    gateway.status = 401
    try:
        assert forwarder.post().status_code == 401
    finally:
        gateway.status = 200
    assert wait_until(lambda: forwarder.link.get("status") == 401, "the refusal in the link's file")


def test_an_answer_that_breaks_off_is_a_gateway_error_and_nothing_is_asked_twice(
    pair: tuple[Gateway, Forwarder],
) -> None:
    gateway, forwarder = pair
    gateway.seen.clear()
    gateway.cut = True
    try:
        assert forwarder.post().status_code == 502
    finally:
        gateway.cut = False
    assert len(gateway.seen) == 1
    assert forwarder.post().status_code == 200


def test_each_request_says_which_run_of_the_forwarder_it_is_of_and_has_its_own_number(
    pair: tuple[Gateway, Forwarder],
) -> None:
    gateway, forwarder = pair
    gateway.seen.clear()
    for _ in range(3):
        forwarder.post()
    said = [headers[INSTANCE].partition(".") for _, headers, _ in gateway.seen]
    assert len({run for run, _, _ in said}) == 1
    assert [int(number) - int(said[0][2]) for _, _, number in said] == [0, 1, 2]


def test_a_stamp_of_the_future_or_of_another_boot_is_not_taken_for_registered(tmp_path: Path) -> None:
    home = DaemonHome(tmp_path)
    link = Link(path=home.link)
    link.saw_answer(method="pull-messages", status=200, date="")
    assert checks.registered(home) == ""
    table = read(home.link)
    for change in (
        {"registered_up": clocks.uptime_s() + 3600}, {"registered_up": clocks.uptime_s() - checks.SILENCE_S - 1},
        {"boot": "another"}, {"registered_up": 0.0},
    ):  # fmt: skip
        home.link.write_text(json.dumps({**table, **change, "registered": time.time() + 7200}))
        assert checks.registered(home) != "", change
    home.link.write_text(json.dumps({**table, "registered": 0.0}))  # the wall clock was set, and is not asked
    assert checks.registered(home) == ""
    link.saw_answer(method="pull-messages", status=409, date="")
    home.link.write_text(json.dumps({**read(home.link), "registered_up": 0.0}))
    assert "two places at once" in checks.registered(home)


@pytest.mark.parametrize(("status", "words"), [(403, "not revoked"), (409, "two places at once")])
def test_a_site_that_is_shut_out_is_told_so_at_once(tmp_path: Path, status: int, words: str) -> None:
    """It used to be well for as long as a sign of life counts, a minute and a half."""
    home = DaemonHome(tmp_path)
    link = Link(path=home.link)
    link.saw_answer(method="pull-messages", status=200, date="")
    link.saw_answer(method="pull-messages", status=503, date="")
    assert checks.registered(home) == "", "the coordinator may be starting again"
    link.saw_answer(method="pull-messages", status=status, date="")
    assert words in checks.registered(home)
    link.saw_answer(method="pull-messages", status=200, date="")
    assert checks.registered(home) == ""


def test_what_passes_is_metered_by_day_and_the_link_is_known(pair: tuple[Gateway, Forwarder]) -> None:
    _, forwarder = pair
    forwarder.post(content=bytes(1_000_000))

    def metered() -> bool:
        forwarder.post()
        lines = forwarder.home.traffic.read_text().splitlines() if forwarder.home.traffic.exists() else []
        return sum(json.loads(line)["sent"] for line in lines) > 1_000_000

    wait_until(metered, "the meter's file")
    wait_until(lambda: forwarder.post().status_code == 200 and forwarder.link.get("status") == 200, "the link's file")
    assert abs(forwarder.link["skew_s"]) < 60
    assert forwarder.link["registered"] > 0


def test_a_gateway_that_is_away_is_one_the_supernode_tries_again(tmp_path: Path) -> None:
    with forwarding(tmp_path, free_ports(1)[0]) as forwarder:
        assert forwarder.post().status_code == 502
        assert wait_until(lambda: forwarder.link.get("error"), "the failure") == "ConnectError"


def test_a_gateway_of_another_authority_gets_nothing(tmp_path: Path) -> None:
    with (
        Gateway(tmp_path, authority=OTHER).running() as gateway,
        forwarding(tmp_path, gateway.port) as forwarder,
    ):
        assert forwarder.post().status_code == 502
        assert wait_until(lambda: forwarder.link.get("error"), "the failure") == "TLSRefused"
        assert gateway.seen == []


def test_the_hospitals_proxy_is_used_and_sees_only_a_tunnel(tmp_path: Path) -> None:
    proxy = Proxy()
    with Gateway(tmp_path).running() as gateway:
        env = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        with forwarding(tmp_path, gateway.port, **env) as forwarder:
            assert forwarder.post().status_code == 200
            assert proxy.asked == [f"CONNECT 127.0.0.1:{gateway.port} HTTP/1.1"]
            text = (forwarder.home.home / "site.toml").read_text()
        with forwarding(tmp_path, gateway.port, **env, NO_PROXY="127.0.0.1") as forwarder:
            assert forwarder.post().status_code == 200
            assert len(proxy.asked) == 1
            changed = text.replace('proxy = ""', f'proxy = "http://127.0.0.1:{proxy.port}"')
            assert changed != text
            (forwarder.home.home / "site.toml").write_text(changed)
            forwarder.process.wait(60)  # a change of settings ends it, and the supervisor starts it again
        with forwarding(tmp_path, gateway.port, NO_PROXY="127.0.0.1") as forwarder:
            assert forwarder.post().status_code == 200
            assert len(proxy.asked) == 2
    proxy.listener.close()
