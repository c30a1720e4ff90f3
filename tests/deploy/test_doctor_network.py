"""The doctor on the way to the coordinator, against real TLS servers: reach, refusal, interception, clock."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.wire import pki
from deploy.doctor import network
from deploy.doctor.network import Way


@contextmanager
def gateway(
    folder: Path, authority: pki.Authority, *, clients: pki.Authority | None = None, date: str = ""
) -> Iterator[str]:
    """A TLS server with a certificate of `authority`; it asks for a client certificate of `clients` if given."""
    key = pki.new_key()
    pki.save_key(folder / "gateway.key", key)
    pki.save_certificate(folder / "gateway.crt", pki.issue_server(authority, key.public_key(), ["127.0.0.1"]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "gateway.crt", folder / "gateway.key")
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pki.pem(clients.certificate))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                raw, _ = listener.accept()
            except TimeoutError:
                continue
            raw.settimeout(5)
            try:
                with context.wrap_socket(raw, server_side=True) as tls:
                    tls.recv(4096)
                    tls.sendall(f"HTTP/1.1 404 x\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
            except OSError:
                raw.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        thread.join()
        listener.close()


@pytest.fixture
def ours() -> pki.Authority:
    return pki.make_authority("ours")


def way(
    folder: Path, ours: pki.Authority, address: str, *, proxy: str = "", issuer: pki.Authority | None = None
) -> Way:
    key = pki.new_key()
    pki.save_key(folder / "client.key", key)
    issued = pki.issue_client(issuer or ours, pki.make_request(key, "north"), "north")
    pki.save_certificate(folder / "client.crt", issued)
    context = ssl.create_default_context(cadata=pki.pem(ours.certificate))
    context.load_cert_chain(folder / "client.crt", folder / "client.key")
    return Way(address=address, context=context, authority=ours.certificate, proxy=proxy)


def levels(way: Way) -> dict[str, str]:
    return {finding.check: finding.level for finding in network.reach(way)}


def test_a_free_way_is_well_and_the_coordinators_clock_is_read(tmp_path: Path, ours: pki.Authority) -> None:
    date = "Fri, 02 Jan 2026 03:04:05 GMT"
    with gateway(tmp_path, ours, clients=ours, date=date) as address:
        found = levels(way(tmp_path, ours, address))
    assert (found["port"], found["TLS"], found["clock"]) == ("ok", "ok", "failure")


def test_a_closed_port_is_told_from_everything_else(tmp_path: Path, ours: pki.Authority) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert levels(way(tmp_path, ours, address)) == {"proxy": "ok", "port": "failure"}


def test_a_proxy_that_opens_tls_is_named_by_the_certificate_it_shows(tmp_path: Path, ours: pki.Authority) -> None:
    with gateway(tmp_path, pki.make_authority("Corporate Inspection")) as address:
        found = list(network.reach(way(tmp_path, ours, address)))
    assert [f.level for f in found if f.check == "TLS"] == ["failure"]
    assert "Corporate Inspection" in found[-1].finding


def test_a_gateway_that_refuses_our_certificate_is_told_from_a_stranger(tmp_path: Path, ours: pki.Authority) -> None:
    with gateway(tmp_path, ours, clients=ours) as address:
        found = list(network.reach(way(tmp_path, ours, address, issuer=pki.make_authority("revoked"))))
    assert (found[-1].check, found[-1].level) == ("TLS", "failure")
    assert "refuses us" in found[-1].finding


def test_a_proxy_that_does_not_let_us_out_is_a_closed_port(tmp_path: Path, ours: pki.Authority) -> None:
    with socket.socket() as free, gateway(tmp_path, ours) as address:
        free.bind(("127.0.0.1", 0))
        proxy = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}"
        found = list(network.reach(way(tmp_path, ours, address, proxy=proxy)))
    assert (found[-1].check, found[-1].level) == ("port", "failure")
    assert "secret" not in repr(found)
