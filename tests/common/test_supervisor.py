"""The supervisor's promises, on real processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from common.host.supervisor import Backoff, Child, Supervisor

FAST = Backoff(first_s=0.05, most_s=0.2)
SLEEP = "import time; print('up', flush=True); time.sleep(600)"


def child(folder: Path, code: str = SLEEP, name: str = "one", *, after_port: int = 0, grace_s: float = 5.0) -> Child:
    return Child(
        name=name,
        command=(sys.executable, "-c", code),
        env=dict(os.environ),
        log_file=folder / f"{name}.log",
        after_port=after_port,
        grace_s=grace_s,
    )


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"never seen: {what}"
        time.sleep(0.02)


@contextmanager
def running(*children: Child, restart: Backoff = FAST) -> Iterator[Supervisor]:
    supervisor = Supervisor(children, restart=restart)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()
        thread.join(60)
        assert not thread.is_alive()


def pid_of(supervisor: Supervisor, name: str = "one") -> int | None:
    pid = supervisor.state()[name]["pid"]
    assert pid is None or isinstance(pid, int)
    return pid


def test_a_killed_child_comes_back_and_is_counted(tmp_path: Path) -> None:
    with running(child(tmp_path)) as supervisor:
        for count in range(1, 4):
            wait_until(lambda: pid_of(supervisor), "a running child")
            first = pid_of(supervisor)
            assert first is not None
            os.kill(first, signal.SIGKILL)
            wait_until(lambda old=first: pid_of(supervisor) not in (None, old), "another process")
            assert supervisor.state()["one"]["restarts"] == count
            assert supervisor.state()["one"]["last_exit"] == -signal.SIGKILL


def test_a_child_is_started_again_when_it_is_asked_for_and_no_other_is(tmp_path: Path) -> None:
    asked: list[int | None] = []

    def ask() -> None:
        if not asked and all(state["pid"] for state in supervisor.state().values()):
            asked.append(pid_of(supervisor, "one"))
            supervisor.restart("one")
            supervisor.restart("nobody")

    supervisor = Supervisor([child(tmp_path), child(tmp_path, name="two")], restart=FAST)
    thread = threading.Thread(target=lambda: supervisor.run(on_tick=ask, tick_s=0.05))
    thread.start()
    try:
        wait_until(lambda: asked and pid_of(supervisor) not in (None, asked[0]), "the child's second process")
        assert supervisor.state()["one"]["restarts"] == 1
        assert supervisor.state()["two"]["restarts"] == 0
    finally:
        supervisor.stop()
        thread.join(60)


def test_pauses_grow_to_a_limit_and_never_end() -> None:
    backoff = Backoff(first_s=1, most_s=15)
    assert [backoff.pause_s(n) for n in (1, 2, 3, 4, 5, 6, 1000)] == [1, 2, 4, 8, 15, 15, 15]


def test_stop_ends_the_children_and_everything_they_started(tmp_path: Path) -> None:
    grandchild = tmp_path / "grandchild"
    code = (
        "import subprocess, sys, pathlib, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(grandchild)!r}).write_text(str(p.pid))\n"
        "time.sleep(600)"
    )
    with running(child(tmp_path, code)) as supervisor:
        wait_until(lambda: grandchild.exists() and grandchild.read_text(), "the grandchild")
        pids = [pid_of(supervisor) or 0, int(grandchild.read_text())]
    wait_until(lambda: not any(alive(pid) for pid in pids), "the end of both")


def test_a_child_deaf_to_sigterm_is_killed_after_its_grace(tmp_path: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    with running(child(tmp_path, code, grace_s=0.3)) as supervisor:
        wait_until(lambda: "up" in said(tmp_path), "the child's first words")
        pid = pid_of(supervisor)
    assert pid is not None
    assert not alive(pid)


def test_children_end_in_the_reverse_of_the_order_they_started_in(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    open({str(order)!r}, 'a').write('{{name}} '); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up', flush=True)\n"
        "time.sleep(600)"
    )
    names = ("first", "second", "third")
    with running(*(child(tmp_path, code.format(name=name), name) for name in names)):
        wait_until(lambda: all("up" in said(tmp_path, name) for name in names), "all three")
    assert order.read_text().split() == ["third", "second", "first"]


def test_a_child_waits_for_the_port_it_needs(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        with running(child(tmp_path, after_port=listener.getsockname()[1])) as supervisor:
            time.sleep(0.5)
            assert pid_of(supervisor) is None
            listener.listen()
            wait_until(lambda: pid_of(supervisor), "the child, once the port is open")


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from common.host.supervisor import Child, Supervisor\n"
        f"c = Child(name='one', command=(sys.executable, '-c', {SLEEP!r}), env=dict(os.environ),\n"
        f"          log_file=Path({str(tmp_path)!r}) / 'one.log')\n"
        "Supervisor([c], on_change=lambda s: print(s['one']['pid'], flush=True)).run()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(next(line for line in supervisor.stdout if line.strip().isdigit()))
        wait_until(lambda: "up" in said(tmp_path), "the child")
        supervisor.kill()
    wait_until(lambda: not alive(pid), "the end of the child")


def test_sigterm_ends_supervisor_and_children_cleanly(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from common.host.supervisor import Child, Supervisor\n"
        f"c = Child(name='one', command=(sys.executable, '-c', {SLEEP!r}), env=dict(os.environ),\n"
        f"          log_file=Path({str(tmp_path)!r}) / 'one.log')\n"
        "Supervisor([c]).run(); print('ended')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as supervisor:
        wait_until(lambda: "up" in said(tmp_path), "the child")
        supervisor.terminate()
        assert supervisor.communicate(timeout=60)[0] == "ended\n"
        assert supervisor.returncode == 0


def test_what_a_child_says_is_cleaned_kept_private_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.host.logs.MAX_BYTES", 20_000)
    code = "print('secret DOE^JANE'); [print('x' * 99) for _ in range(2000)]; print('y' * 100_000); print('last')"
    noisy = Child(
        name="one",
        command=(sys.executable, "-c", code),
        env=dict(os.environ),
        log_file=tmp_path / "logs" / "one.log",
        clean=lambda line: line.replace("DOE^JANE", "-"),
    )
    with running(noisy, restart=Backoff(first_s=600, most_s=600)):
        wait_until(lambda: "last" in said(tmp_path / "logs"), "the last line")
    files = list((tmp_path / "logs").iterdir())
    assert sum(file.stat().st_size for file in files) < 5 * 20_000 + 100_000
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    assert not any("DOE" in file.read_text() for file in files)


def test_a_command_that_is_not_there_is_retried_and_stops_nobody(tmp_path: Path) -> None:
    absent = Child(
        name="absent", command=(str(tmp_path / "absent"),), env=dict(os.environ), log_file=tmp_path / "absent.log"
    )
    with running(absent, child(tmp_path)) as supervisor:
        wait_until(lambda: supervisor.state()["absent"]["restarts"] >= 2, "restarts")
        wait_until(lambda: pid_of(supervisor), "the other child")


def test_an_idle_supervisor_uses_no_processor_time(tmp_path: Path) -> None:
    with running(child(tmp_path)) as supervisor:
        wait_until(lambda: pid_of(supervisor) and "up" in said(tmp_path), "the child")
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.5


def test_a_tick_that_fails_does_not_stop_the_children(tmp_path: Path) -> None:
    ticks: list[int] = []

    def tick() -> None:
        ticks.append(1)
        raise ValueError("DOE^JANE")

    supervisor = Supervisor([child(tmp_path)], restart=FAST)
    thread = threading.Thread(target=supervisor.run, kwargs={"on_tick": tick, "tick_s": 0.05})
    thread.start()
    try:
        wait_until(lambda: len(ticks) > 3 and pid_of(supervisor), "ticks")
    finally:
        supervisor.stop()
        thread.join(60)


def said(folder: Path, name: str = "one") -> str:
    path = folder / f"{name}.log"
    return path.read_text() if path.exists() else ""


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
