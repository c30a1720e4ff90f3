"""One node key in two places at once: no request of either passes, and the operator is told which site it is."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.requests import Request
from starlette.responses import Response

from client.daemon import forwarder
from common.wire import pki
from server.coordinator import status
from server.coordinator.home import Home
from server.gateway.admission import Admitted
from server.gateway.connection import PEER
from server.gateway.gateway import Gateway
from server.gateway.tls import tls_context
from server.gateway.twins import FILE, HEADER, LATE, Twins, read
from tests.server.coordinators import Visitor, make_home

KEY = b"-----BEGIN PUBLIC KEY-----"


def admitted(site: str = "north", key: bytes = KEY) -> Admitted:
    return Admitted(site=site, node_key=key)


def said(run: str, request: int) -> str:
    return f"{run * 32}.{request}"


def test_a_forwarder_that_starts_again_is_passed_however_often(tmp_path: Path) -> None:
    twins = Twins(tmp_path)
    for run in "abcdef0123456789":
        assert not any(twins.refuses(admitted(), said(run, request)) for request in (0, 2, 1, 3))
    assert read(tmp_path) == {}


def test_late_requests_of_a_run_that_ended_are_passed_and_lock_nobody_out(tmp_path: Path) -> None:
    twins = Twins(tmp_path)
    for old, new in ("ab", "bc"):  # each run leaves as much behind as it can
        assert not twins.refuses(admitted(), said(old, 100))
        for number in range(LATE):
            assert not twins.refuses(admitted(), said(new, number))
            assert not twins.refuses(admitted(), said(old, LATE - number))
    assert not twins.refuses(admitted(), said("c", 100))
    assert read(tmp_path) == {}


def test_an_ended_run_that_was_never_heard_before_comes_late_and_locks_nobody_out(tmp_path: Path) -> None:
    """A proxy held its requests back, or the gateway started again meanwhile: it seems to be the newer run."""
    twins = Twins(tmp_path)
    assert not any(twins.refuses(admitted(), said("b", number)) for number in range(100))
    for number in range(LATE):
        assert not twins.refuses(admitted(), said("a", number))
        assert not any(twins.refuses(admitted(), said("b", 100 + 9 * number + more)) for more in range(9))
    assert not any(twins.refuses(admitted(), said("b", number)) for number in range(1000, 1100))
    assert read(tmp_path) == {}


def test_a_second_forwarder_that_starts_again_and_again_is_noticed(tmp_path: Path) -> None:
    """Each of its runs alone might have ended long ago, and only be late."""
    twins = Twins(tmp_path)

    def notices(run: int) -> bool:
        lives = twins.refuses(admitted(), f"{run:032x}.0")
        return lives or any(twins.refuses(admitted(), said("a", run * 20 + number)) for number in range(20))

    assert not any(twins.refuses(admitted(), said("a", number)) for number in range(20))
    assert [notices(run) for run in range(1, LATE + 2)] == [False] * LATE + [True]


def test_the_allowance_for_late_requests_is_what_a_forwarder_can_leave_behind() -> None:
    assert f"max_connections={LATE}," in Path(forwarder.__file__).read_text()


BY_TURNS = [*((run, number) for number in range(LATE + 1) for run in "ab"), ("a", LATE + 1)]
COMES_BACK = [
    ("a", 0),
    *(("b", number) for number in range(LATE + 1)),
    *(("a", 1 + number) for number in range(LATE + 1)),
]


@pytest.mark.parametrize("seen", [COMES_BACK, BY_TURNS, [("a", 0), ("a", 1), ("a", 1)]])
def test_a_key_in_two_places_is_refused_in_both_for_good_and_others_go_on(
    tmp_path: Path, seen: list[tuple[str, int]]
) -> None:
    twins = Twins(tmp_path)
    assert [twins.refuses(admitted(), said(*each)) for each in seen] == [False] * (len(seen) - 1) + [True]
    for again in (twins, Twins(tmp_path)):  # the gateway may start again meanwhile
        for run in "abc":
            assert again.refuses(admitted(), said(run, 9))
        assert again.refuses(admitted(), "")
        assert not again.refuses(admitted("hill", b"another"), said("a", 0))
    assert set(read(tmp_path)) == {"north"}


def test_new_keys_let_the_site_in_again(tmp_path: Path) -> None:
    twins = Twins(tmp_path)
    for each in COMES_BACK:
        twins.refuses(admitted(), said(*each))
    assert twins.refuses(admitted(), said("c", 0))
    assert not twins.refuses(admitted(key=b"new"), said("c", 0))


def test_what_says_nothing_of_itself_or_nonsense_is_passed(tmp_path: Path) -> None:
    twins = Twins(tmp_path)
    for word in ("", "x", "a.b", "A" * 32 + ".1", "a" * 32 + ".-1", "a" * 32 + "." + "9" * 19):
        assert not any(twins.refuses(admitted(), word) for _ in range(3))


def test_a_key_in_two_places_is_refused_also_where_it_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    twins = Twins(tmp_path)
    seen = [*COMES_BACK, ("b", 1)]
    assert [twins.refuses(admitted(), said(*each)) for each in seen][-3:] == [False, True, True]
    (tmp_path / FILE).rmdir()
    (tmp_path / FILE).write_text(json.dumps({"north": 1}))
    assert read(tmp_path) == {}


def answered(gateway: Gateway, visitor: Visitor, instance: str) -> int:
    """What the gateway says to a request of a site before it passes it on; 200 where it would."""
    peer = pki.read_certificate(visitor.welcome.certificate).public_bytes(Encoding.DER)
    headers = {**visitor.headers(), HEADER: instance}
    scope = {
        "type": "http", "method": "POST", "path": "/v1/fleet/pull-messages", "raw_path": b"/v1/fleet/pull-messages",
        "query_string": b"", "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "state": {PEER: peer},
    }  # fmt: skip
    found = gateway._admit(Request(scope))
    return found.status_code if isinstance(found, Response) else 200


def test_a_site_in_two_places_gets_nowhere_until_it_has_new_keys_and_status_says_so(tmp_path: Path) -> None:
    home: Home = make_home(tmp_path / "coordinator")
    twin, other = Visitor.enrolled(home, "twin"), Visitor.enrolled(home, "other")
    gateway = Gateway(home, tls_context(home))
    assert [answered(gateway, twin, said(*each)) for each in COMES_BACK[:-1]] == [200] * (2 * LATE + 2)
    assert status.table(home)["sites"]["twin"]["two_places"] == ""
    assert [answered(gateway, twin, said(*each)) for each in (COMES_BACK[-1], ("b", 1), ("c", 0))] == [409, 409, 409]
    assert answered(gateway, other, said("a", 0)) == 200
    found = status.table(home)
    assert found["sites"]["twin"]["two_places"]
    assert found["sites"]["other"]["two_places"] == ""
    assert "twin: enrolled (IN TWO PLACES AT ONCE" in status.text(found)
    renewed = Visitor.enrolled(home, "twin")
    assert answered(Gateway(home, tls_context(home)), renewed, said("d", 0)) == 200
    assert status.table(home)["sites"]["twin"]["two_places"] == ""
