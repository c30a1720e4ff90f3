"""One enrolled site that takes all it can get at the gateway, and another that must not notice: two sites, real TLS."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from server.coordinator.home import Home, split_address
from server.gateway import gateway, relay, shares
from server.gateway.shares import Shares
from tests.server.coordinators import Visitor, make_home

BIG = 64_000_000
"""Bytes of an answer that no buffer on the way holds."""


@dataclass
class StandIn:
    """Answers in the SuperLink's place: much to `pull-object`, little to everything else."""

    at_work: int = 0
    sent: int = 0
    seen: Counter[bytes] = field(default_factory=Counter)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        self.seen[dict(scope["headers"])[b"flwr-public-key"]] += 1
        self.at_work += 1
        gone = asyncio.ensure_future(receive())
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(BIG // 65536 if scope["path"].endswith("pull-object") else 1):
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                self.sent += 65536
                if gone.done():
                    return
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            self.at_work -= 1


@dataclass
class Bench:
    """A gateway of our own before a stand-in, and two enrolled sites."""

    home: Home
    superlink: StandIn
    port: int
    hostile: Visitor
    honest: Visitor
    contexts: dict[str, ssl.SSLContext]

    async def open(self, site: Visitor) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that is read no further than its reader's small buffer."""
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.contexts[site.site], server_hostname="127.0.0.1", limit=4096
        )

    async def ask(self, site: Visitor, name: str) -> tuple[bytes, tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """The status of the answer to one request on a connection that stays open."""
        reader, writer = await self.open(site)
        signed = "".join(f"{key}: {value}\r\n" for key, value in site.headers().items())
        writer.write(f"POST /v1/fleet/{name} HTTP/1.1\r\nHost: x\r\n{signed}Content-Length: 0\r\n\r\n".encode())
        line = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            line = await asyncio.wait_for(reader.readline(), 60)
        return line[9:12], (reader, writer)

    async def is_served(self) -> bool:
        """Whether the honest site gets an answer on a connection of its own."""
        async with httpx.AsyncClient(verify=self.contexts["honest"], trust_env=False, timeout=60) as opened:
            url = f"https://127.0.0.1:{self.port}/v1/fleet/pull-messages"
            return (await opened.post(url, headers=self.honest.headers(), content=b"")).status_code == 200


@contextlib.asynccontextmanager
async def serving(config: uvicorn.Config) -> AsyncIterator[int]:
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.02)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        await task


def on_a_bench(folder: Path, test: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a test on a bench of its own."""

    async def run() -> None:
        home, superlink = make_home(folder / "coordinator"), StandIn()
        hostile, honest = (Visitor.enrolled(home, name) for name in ("hostile", "honest"))
        contexts = {visitor.site: visitor.context(folder) for visitor in (hostile, honest)}
        host, port = split_address(home.superlink)
        tls = home.root / "tls"
        behind = uvicorn.Config(
            superlink.app, host=host, port=port, log_config=None, lifespan="off", ws="none", interface="asgi3",
            ssl_certfile=tls / "superlink.crt", ssl_keyfile=str(tls / "superlink.key"),
        )  # fmt: skip
        before = gateway.config(home)
        before.port = 0
        async with serving(behind), serving(before) as own:
            bench = Bench(home, superlink, own, hostile, honest, contexts)
            await asyncio.wait_for(test(bench), 90)  # what never comes to pass must fail before the runner gives up

    asyncio.run(run())


def test_answers_that_a_site_does_not_read_hold_its_own_share_and_no_more(tmp_path: Path) -> None:
    async def attack(bench: Bench) -> None:
        asked = [await bench.ask(bench.hostile, "pull-object") for _ in range(24)]
        statuses = Counter(status for status, _ in asked)
        assert statuses == {b"200": 16, b"429": 8}
        assert bench.superlink.at_work <= 16
        assert await bench.is_served()
        for _, (_, writer) in asked:
            writer.transport.abort()

    on_a_bench(tmp_path, attack)


def test_an_answer_that_is_not_read_is_broken_off_and_its_place_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PAUSE_S", 0.5)

    async def attack(bench: Bench) -> None:
        asked = [await bench.ask(bench.hostile, "pull-object") for _ in range(16)]
        while bench.superlink.at_work:
            await asyncio.sleep(0.05)
        status, last = await bench.ask(bench.hostile, "pull-messages")
        assert status == b"200"
        for _, writer in [last, *(ends for _, ends in asked)]:
            writer.transport.abort()

    on_a_bench(tmp_path, attack)


def test_an_answer_whose_reader_has_gone_is_read_no_further(tmp_path: Path) -> None:
    async def attack(bench: Bench) -> None:
        _, (_, writer) = await bench.ask(bench.hostile, "pull-object")
        assert bench.superlink.at_work == 1
        writer.transport.abort()
        while bench.superlink.at_work:
            await asyncio.sleep(0.05)
        assert bench.superlink.sent < BIG - BIG // 4

    on_a_bench(tmp_path, attack)


def test_connections_of_one_site_end_at_its_share_and_another_site_gets_in(tmp_path: Path) -> None:
    async def attack(bench: Bench) -> None:
        held = [await bench.ask(bench.hostile, "pull-messages") for _ in range(40)]
        assert Counter(status for status, _ in held) == {b"200": 32, b"": 8}
        assert await bench.is_served()
        for _, (_, writer) in held[:20]:
            writer.transport.abort()
        while (again := await bench.ask(bench.hostile, "pull-messages"))[0] != b"200":
            await asyncio.sleep(0.05)
        for _, (_, writer) in [*held, again]:
            writer.transport.abort()

    on_a_bench(tmp_path, attack)


def test_connections_of_a_certificate_that_was_revoked_have_a_share_of_their_own(tmp_path: Path) -> None:
    """TLS knows a revocation after its next start only; until then it is the request that is refused."""

    async def attack(bench: Bench) -> None:
        (bench.home.nodes / "hostile.json").unlink()
        silent = [await bench.open(bench.hostile) for _ in range(40)]
        assert await bench.is_served()
        for _, writer in silent:
            writer.transport.abort()

    on_a_bench(tmp_path, attack)


def test_a_site_that_asks_without_a_pause_is_slowed_down_and_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "RATE_PER_S", 10.0)
    monkeypatch.setattr(shares, "BURST", 5.0)

    async def attack(bench: Bench) -> None:
        began = time.monotonic()
        async with httpx.AsyncClient(verify=bench.contexts["hostile"], trust_env=False, timeout=60) as opened:

            async def flood() -> None:
                url = f"https://127.0.0.1:{bench.port}/v1/fleet/pull-messages"
                for _ in range(5):
                    assert (await opened.post(url, headers=bench.hostile.headers(), content=b"")).status_code == 200

            await asyncio.gather(*(flood() for _ in range(6)))
            passed = sum(bench.superlink.seen.values())
            assert passed == 30
            assert passed <= 5 + 10 * (time.monotonic() - began) + 1
        assert await bench.is_served()

    on_a_bench(tmp_path, attack)


def test_a_rate_lets_a_burst_through_then_so_many_a_second_and_forgives_in_a_pause() -> None:
    clock = [0.0]
    counted = Shares(now=lambda: clock[0])
    assert [counted.wait_s("north") for _ in range(200)] == [0.0] * 200
    waits = [counted.wait_s("north") for _ in range(10)]
    assert waits == pytest.approx([count / shares.RATE_PER_S for count in range(1, 11)])
    assert counted.wait_s("south") == 0.0
    clock[0] += 1000.0
    assert [counted.wait_s("north") for _ in range(200)] == [0.0] * 200
    assert counted.wait_s("north") > 0


def test_a_flood_of_refusals_is_one_line_a_minute_for_each_site(caplog: pytest.LogCaptureFixture) -> None:
    clock = [0.0]
    counted = Shares(now=lambda: clock[0])
    caplog.set_level(logging.WARNING)
    for _ in range(1000):
        counted.say("busy", "north")
    counted.say("busy", "south")
    counted.say("size", "north")
    clock[0] += 61.0
    counted.say("busy", "north")
    assert [record.getMessage() for record in caplog.records] == [
        "refused a request: busy north", "refused a request: busy south", "refused a request: size north",
        "refused a request: busy north",
    ]  # fmt: skip
