"""A slow line that is cut in the middle of an upload: the round completes and nothing is trained twice.

The line is a web proxy of the hospital's that passes 1 Mbit/s with 150 ms each way, and that can be cut. Where the
kernel has `netem` (Debian's iproute2, root), the same is done to packets, with 2 % of them lost, between two network
namespaces.

By hand, with an update of 20 MB and a cut of five minutes:
    WARDROUND_TEST_CUT_S=300 WARDROUND_TEST_LARGE=1 pytest -s tests/flows/test_network.py
"""

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.mechanism.registry import leaving_bytes
from common.plan.schedule import schedule
from common.plan.study_plan import StudyPlan
from tests.client.daemon_lab import CLI, Lab, environment, lab, plan_text, wait_until

CUT_S = float(os.environ.get("WARDROUND_TEST_CUT_S", "20"))
LARGE = bool(os.environ.get("WARDROUND_TEST_LARGE"))
BYTES_S, DELAY_S = 125_000, 0.15
PATIENCE_S = 240 + 4 * CUT_S + 1200 * LARGE
PLAN = plan_text(rounds=1, deadline_s=PATIENCE_S).replace("base = 4", "base = 16")
if LARGE:
    PLAN = PLAN.replace("channels = [4, 8]", "channels = [512, 512]").replace("local_steps = 2", "local_steps = 1")
    PLAN += '[privacy]\nphases = ["sgd"]\n'
else:
    PLAN = PLAN.replace("min_patients = 10", "min_patients = 300")
ROUNDS = schedule(StudyPlan.parse(PLAN))
UPDATE_BYTES = leaving_bytes(StudyPlan.parse(PLAN), ROUNDS[-1].phase)
pytestmark = [pytest.mark.flows, pytest.mark.timeout(int(PATIENCE_S * 2))]


class Line:
    """A CONNECT proxy with a bandwidth, a delay and a switch."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.cut, self.out, self.cuts = threading.Event(), 0, 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @contextlib.contextmanager
    def interrupted(self) -> Iterator[None]:
        """Nothing passes, and what is under way breaks off."""
        self.cut.set()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()
        try:
            yield
        finally:
            self.cut.clear()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        try:
            request = client.recv(65536).decode()
            if self.cut.is_set() or not request:
                client.close()
                return
            host, port = request.split()[1].rsplit(":", 1)
            upstream = socket.create_connection((host, int(port)))
            for end in (client, upstream):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            self._open += [client, upstream]
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self._pump, args=(upstream, client, False), daemon=True)
        back.start()
        self._pump(client, upstream, True)
        back.join()
        client.close()
        upstream.close()

    def _pump(self, source: socket.socket, sink: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                time.sleep(len(data) / BYTES_S + (DELAY_S if len(data) < 4096 else 0))
                sink.sendall(data)
                self.out += len(data) * outward
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def rows(made: Lab, kind: str) -> int:
    """Rows of one kind in the hospital's ledger."""
    path = made.site("north") / "ledger.sqlite"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        texts = [str(row) for table in tables for row in connection.execute(f"SELECT * FROM {table}")]
    return sum(f"'{kind}'" in text for text in texts)


def test_a_cut_in_the_middle_of_an_upload_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line()
    with lab(tmp_path, plans=(PLAN,)) as made:
        made.enrol("north", *made.plans)
        policy = made.site("north") / "site.toml"
        policy.write_text(policy.read_text() + f'\n[daemon]\nproxy = "http://127.0.0.1:{line.port}"\n')
        made.serve("site", made.site("north"))
        wait_until(lambda: made.serving("north"), "a serving hospital", within_s=PATIENCE_S)
        made.start(PLAN)
        wait_until(lambda: rows(made, "settle") == len(ROUNDS), "the reply of the last round", within_s=PATIENCE_S)
        before = line.out
        wait_until(lambda: line.out > before + UPDATE_BYTES // 2, "the middle of the upload", within_s=PATIENCE_S)
        assert made.rounds() == len(ROUNDS) - 1
        with line.interrupted():
            time.sleep(CUT_S)
            assert made.rounds() == len(ROUNDS) - 1
        wait_until(lambda: made.rounds() == len(ROUNDS), "the last round", within_s=PATIENCE_S)
        assert rows(made, "reserve") == len(ROUNDS)
        assert rows(made, "settle") == len(ROUNDS)
    line.listener.close()
    print(
        f"update of {UPDATE_BYTES / 1e6:.1f} MB, cut for {CUT_S:.0f} s after {(line.out - before) / 1e6:.1f} MB in all"
    )


def _netem() -> str:
    """Why packets cannot be delayed and lost here; "" where they can."""
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        return "needs root, and ip and tc of iproute2"
    name = f"wr{os.getpid()}"
    steps = (f"ip link add {name} type dummy", f"tc qdisc add dev {name} root netem delay 1ms", f"ip link del {name}")
    codes = [subprocess.run(step.split(), capture_output=True, check=False).returncode for step in steps]
    return "" if not any(codes) else "this kernel has no netem, or does not let us use it"


@contextlib.contextmanager
def two_rooms() -> Iterator[tuple[str, str]]:
    """A namespace for the hospital, joined to this one by a bad line; yields its name and our address on that line."""
    name = f"wr{os.getpid()}"
    ours, theirs = "10.213.77.1", "10.213.77.2"
    steps = [
        f"ip netns add {name}",
        f"ip link add {name}a type veth peer name {name}b netns {name}",
        f"ip addr add {ours}/30 dev {name}a",
        f"ip link set {name}a up",
        f"ip -n {name} addr add {theirs}/30 dev {name}b",
        f"ip -n {name} link set {name}b up",
        f"ip -n {name} link set lo up",
    ]
    if not _netem():
        bad = "root netem delay 150ms loss 2% rate 1mbit"
        steps += [f"tc qdisc add dev {name}a {bad}", f"ip netns exec {name} tc qdisc add dev {name}b {bad}"]
    try:
        for step in steps:
            subprocess.run(step.split(), check=True, capture_output=True)
        yield name, ours
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.skipif(_netem() != "", reason=_netem())
def test_a_line_that_loses_packets_and_goes_down_in_an_upload_costs_time_and_nothing_else(tmp_path: Path) -> None:
    with two_rooms() as (room, address), lab(tmp_path, plans=(PLAN,), host=address) as made:
        made.enrol("north", *made.plans)
        command = ["ip", "netns", "exec", room, *CLI, "site", "serve", "--home", str(made.site("north"))]
        made.processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment()))
        wait_until(lambda: made.serving("north"), "a serving hospital", within_s=PATIENCE_S)
        made.start(PLAN)
        wait_until(lambda: rows(made, "settle") == len(ROUNDS), "the reply of the last round", within_s=PATIENCE_S)
        subprocess.run(["ip", "link", "set", f"{room}a", "down"], check=True)
        time.sleep(CUT_S)
        subprocess.run(["ip", "link", "set", f"{room}a", "up"], check=True)
        wait_until(lambda: made.rounds() == len(ROUNDS), "the last round", within_s=PATIENCE_S)
        assert rows(made, "reserve") == len(ROUNDS)
        assert rows(made, "settle") == len(ROUNDS)
