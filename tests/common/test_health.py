"""Health is what the checks say, on loopback only, and never the text of an exception."""

import socket
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from common.errors import StateError
from common.host.health import HealthServer, ask


def until(condition: Callable[[], bool], *, within_s: float = 60) -> bool:
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_a_daemon_serves_only_while_every_check_is_well() -> None:
    ill = {"disk": ""}
    with HealthServer(0, {"disk": lambda: ill["disk"], "clock": lambda: ""}, every_s=0.05) as server:
        assert until(lambda: ask(server.port) == {"": "SERVING"})
        ill["disk"] = "full"
        assert until(lambda: ask(server.port) == {"": "NOT_SERVING"})
        assert ask(server.port, ("clock", "disk")) == {"clock": "SERVING", "disk": "NOT_SERVING"}
        assert server.reasons == {"clock": "", "disk": "full"}
        ill["disk"] = ""
        assert until(lambda: ask(server.port) == {"": "SERVING"})


def test_advice_is_a_service_of_its_own_and_leaves_the_daemon_serving() -> None:
    with HealthServer(0, {"disk": lambda: ""}, advice={"certificate-end": lambda: "in 12 days"}) as server:
        server.refresh()
        assert ask(server.port, ("", "disk", "certificate-end")) == {
            "": "SERVING", "disk": "SERVING", "certificate-end": "NOT_SERVING",
        }  # fmt: skip
        assert server.reasons == {"disk": "", "certificate-end": "in 12 days"}


def test_nothing_is_well_before_it_was_checked() -> None:
    server = HealthServer(0, {"disk": lambda: ""}, every_s=0.05)
    server._server.start()
    try:
        assert ask(server.port, ("", "disk")) == {"": "NOT_SERVING", "disk": "NOT_SERVING"}
    finally:
        server._thread = threading.Thread()
        server.stop()


def test_a_check_that_raises_tells_its_type_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> str:
        raise OSError("/data/DOE^JANE.dcm")

    with HealthServer(0, {"cache": broken}, every_s=0.05) as server:
        assert until(lambda: "OSError" in server.reasons["cache"])
        assert "DOE" not in server.reasons["cache"]
        assert ask(server.port) == {"": "NOT_SERVING"}


def test_a_check_that_hangs_holds_up_no_other_and_is_not_started_twice() -> None:
    release, started = threading.Event(), []

    def hangs() -> str:
        started.append(1)
        release.wait(60)
        return ""

    with HealthServer(0, {"pacs": hangs, "disk": lambda: ""}, every_s=0.05, patience_s=0.1) as server:
        assert until(lambda: ask(server.port, ("disk", "pacs")) == {"disk": "SERVING", "pacs": "NOT_SERVING"})
        assert until(lambda: "no answer" in server.reasons["pacs"])
        assert sum(started) == 1
        release.set()
        assert until(lambda: ask(server.port) == {"": "SERVING"})


def test_it_listens_on_loopback_alone_and_says_so_when_the_port_is_taken() -> None:
    with HealthServer(0, {}) as server:
        listening = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr.port == server.port]
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
        with pytest.raises(StateError, match="taken"):
            HealthServer(server.port, {})


def test_what_each_refresh_found_is_handed_on() -> None:
    seen: list[dict[str, str]] = []
    with HealthServer(0, {"disk": lambda: "full"}, every_s=0.05, on_refresh=seen.append):
        assert until(lambda: bool(seen))
    assert seen[0] == {"disk": "full"}


def test_a_daemon_that_is_not_there_is_unreachable_and_an_unknown_service_unknown() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert ask(free.getsockname()[1], timeout_s=1) == {"": "UNREACHABLE"}
    with HealthServer(0, {}) as server:
        assert ask(server.port, ("nonsense",)) == {"nonsense": "SERVICE_UNKNOWN"}
