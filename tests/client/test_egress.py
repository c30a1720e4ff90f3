"""One door out: exactly what the round of the plan releases passes, and whatever leaves is written down first."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.egress import check, egress, egress_log
from client.ledger.ledger import GENESIS
from common.errors import EgressRefused, LedgerCorrupt, StateError
from common.mechanism.registry import leaving, leaving_bytes
from common.model.weights import Weights, digest
from common.plan.schedule import schedule
from common.wire.messages import AboutReply, TrainReply
from tests.client.hospitals import tiny_plan

PLAN = tiny_plan()
MEAN, SGD = schedule(PLAN)[0], schedule(PLAN)[3]
HEAD = GENESIS


def arrays(step: Any = MEAN) -> Weights:
    shapes = leaving(PLAN, step.phase)
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def sealed(**changes: Any) -> TrainReply:
    values = {"site": "north", "plan": PLAN, "step": MEAN, "arrays": arrays(), "epsilon": 1.0, "ledger_head": HEAD}
    return egress.seal(**{**values, **changes})


@pytest.mark.parametrize(
    "change", [{"text_searched": "in 14 of 80 scans"}, {"text_searched": ""}, {"plan": "0" * 64}, {"site": "North 1"}]
)
def test_what_a_site_says_of_its_settings_is_one_of_three_words_and_is_written_down_first(
    tmp_path: Path, change: dict[str, str]
) -> None:
    words = {"plan": PLAN.digest, "site": "north", "text_searched": "yes"}
    with pytest.raises(EgressRefused):
        egress.describe(tmp_path, plan=PLAN, reply=AboutReply(**{**words, **change}))
    assert not (tmp_path / egress.LOG).exists()
    egress.describe(tmp_path, plan=PLAN, reply=AboutReply(**words))
    assert json.loads((tmp_path / egress.LOG).read_text())["kind"] == "about"


class Masked(np.ndarray):
    """An array that may carry more than it shows."""


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": {}},
        {"arrays": {"release": arrays()["release"][:-1]}},
        {"arrays": {"release": arrays()["release"].reshape(1, -1)}},
        {"arrays": {"release": arrays()["release"].astype(np.float64)}},
        {"arrays": {"release": arrays()["release"].astype(np.int32)}},
        {"arrays": {"release": np.full_like(arrays()["release"], np.nan)}},
        {"arrays": {"release": np.full_like(arrays()["release"], np.inf)}},
        {"arrays": {"release": arrays()["release"].view(Masked)}},
        {"arrays": {**arrays(), "count": np.ones(1, np.float32)}},
        {"arrays": {**arrays(), "images": np.ones((4, 28, 28), np.float32)}},
        {"arrays": arrays(SGD)},
        {"epsilon": float("nan")},
        {"epsilon": float("inf")},
        {"epsilon": 8.0001},
        {"epsilon": -0.001},
        {"epsilon": np.float64(1.0)},
        {"ledger_head": ""},
        {"ledger_head": "patient Doe"},
        {"site": "DOE^JANE"},
        {"site": "x" * 33},
    ],
)
def test_anything_that_is_not_this_rounds_release_is_refused(change: dict[str, Any]) -> None:
    sealed()
    with pytest.raises(EgressRefused, match="nothing was sent"):
        sealed(**change)


def test_a_booked_round_that_cost_next_to_nothing_is_sent_at_an_epsilon_of_0() -> None:
    assert sealed(epsilon=0.0).epsilon == 0.0


def test_a_reply_has_seven_scalars_and_no_place_for_another() -> None:
    record = sealed().to_record()
    seven = {"plan", "round", "phase", "site", "epsilon", "delta", "ledger_head"}
    assert set(record) == {"message", "arrays"}
    assert set(record["message"]) == {"schema", "kind"} | seven


def test_weights_that_are_not_trained_here_do_not_leave() -> None:
    names = leaving(PLAN, "sgd")
    assert names
    assert not any(name.startswith("start.") for name in names)
    assert leaving_bytes(PLAN, "sgd") == sum(a.nbytes for a in arrays(SGD).values())


def test_what_leaves_is_logged_with_digest_size_names_and_entry_before_it_is_returned(tmp_path: Path) -> None:
    reply = egress.release(tmp_path, plan=PLAN, step=MEAN, reply=sealed(), entry=7)
    (line,) = (tmp_path / egress.LOG).read_text().splitlines()
    assert {k: v for k, v in json.loads(line).items() if k != "time"} == {
        "kind": "train",
        "payload": digest(reply.arrays),
        "bytes": leaving_bytes(PLAN, "mean"),
        "keys": ["release"],
        "entry": 7,
    }
    assert egress.last_head(tmp_path) == HEAD
    with pytest.raises(LedgerCorrupt):
        egress.release(tmp_path, plan=PLAN, step=MEAN, reply=sealed(ledger_head="a" * 64), entry=7)
    assert egress.last_head(tmp_path) == HEAD


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": {"release": np.zeros(3, np.float32)}},
        {"plan": "b" * 64},
        {"round": 2},
        {"phase": "sgd"},
        {"delta": 1e-3},
        {"epsilon": 9.0},
        {"ledger_head": "x"},
    ],
)
def test_a_stored_reply_is_checked_again_and_leaves_no_trace_when_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    reply = TrainReply(**{**vars(sealed()), **change})
    with pytest.raises(EgressRefused):
        egress.release(tmp_path, plan=PLAN, step=MEAN, reply=reply, entry=7)
    assert list(tmp_path.iterdir()) == []


def test_the_log_only_grows(tmp_path: Path) -> None:
    for kind in ("hello", "refusal", "hello"):
        egress.record(tmp_path, kind=kind, payload="p", size=0, keys=[], entry=0)
    kinds = [json.loads(line)["kind"] for line in (tmp_path / egress.LOG).read_text().splitlines()]
    assert kinds == ["hello", "refusal", "hello"]


def test_nothing_is_sent_that_cannot_be_written_down(tmp_path: Path) -> None:
    (tmp_path / egress.LOG).mkdir()
    with pytest.raises(StateError, match="nothing was sent"):
        egress.release(tmp_path, plan=PLAN, step=MEAN, reply=sealed(), entry=7)
    (tmp_path / egress.LOG).rmdir()
    (tmp_path / egress.RECEIPT).mkdir()
    with pytest.raises(StateError, match="nothing was sent"):
        egress.release(tmp_path, plan=PLAN, step=MEAN, reply=sealed(), entry=7)


def test_before_the_first_reply_there_is_no_receipt_and_a_spoilt_one_is_an_error(tmp_path: Path) -> None:
    assert egress.last_head(tmp_path) == ""
    (tmp_path / egress.RECEIPT).write_text("{}")
    with pytest.raises(StateError, match="from its backup"):
        egress.last_head(tmp_path)


def test_the_log_is_kept_in_files_of_bounded_size_and_no_line_is_ever_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_log, "MAX_BYTES", 2000)
    for number in range(60):
        egress.record(tmp_path, kind="train", payload=f"{number:064x}", size=4, keys=["release"], entry=number)
    files = egress_log.files(tmp_path)
    assert [file.name for file in files][:2] == ["egress.00001.jsonl", "egress.00002.jsonl"]
    assert files[-1].name == egress_log.LOG
    assert all(file.stat().st_size < 2000 + 400 for file in files)
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert [line["entry"] for part in lines for line in part if line["kind"] == "train"] == list(range(60))
    for earlier, later in itertools.pairwise(range(len(files))):
        seal = hashlib.sha256(files[earlier].read_bytes()).hexdigest()
        assert lines[later][0] == {"kind": "continued", "file": files[earlier].name, "sha256": seal}


def test_a_writer_waits_for_whoever_holds_the_log(tmp_path: Path) -> None:
    def write() -> None:
        egress.record(tmp_path, kind="hello", payload="0" * 64, size=0, keys=["site"], entry=0)

    write()
    with (tmp_path / "egress.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=write)
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert len((tmp_path / egress_log.LOG).read_text().splitlines()) == 1
    waiting.join()
    assert len((tmp_path / egress_log.LOG).read_text().splitlines()) == 2


def test_writers_side_by_side_put_a_full_file_away_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_log, "MAX_BYTES", 2000)

    def write(first: int) -> None:
        for number in range(first, first + 20):
            egress.record(tmp_path, kind="hello", payload="0" * 64, size=0, keys=["site"], entry=number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(0, 80, 20)))
    lines = [json.loads(line) for file in egress_log.files(tmp_path) for line in file.read_text().splitlines()]
    assert sorted(line["entry"] for line in lines if line["kind"] == "hello") == list(range(80))
    assert sum(line["kind"] == "continued" for line in lines) == len(egress_log.files(tmp_path)) - 1


def hello(home: Path, entry: int) -> None:
    egress.record(home, kind="hello", payload="0" * 64, size=0, keys=["site"], entry=entry)


def entries(home: Path) -> list[int]:
    """Entries of every line that can be read, of whichever file."""
    found = []
    for line in (line for file in egress_log.files(home) for line in file.read_bytes().splitlines()):
        with contextlib.suppress(ValueError):
            found.append(json.loads(line).get("entry"))
    return [entry for entry in found if entry is not None]


def test_a_line_torn_at_any_byte_spoils_no_other_and_is_told_from_damage(tmp_path: Path) -> None:
    hello(tmp_path, 1)
    hello(tmp_path, 2)
    path = tmp_path / egress_log.LOG
    whole = path.read_bytes()
    begin = whole.index(b"\n") + 1
    for end in range(begin + 1, len(whole)):
        path.write_bytes(whole[:end])
        unclosed = check.check(tmp_path)
        assert (unclosed.torn, unclosed.faults) == (("egress.jsonl line 2",), ())
        hello(tmp_path, 3)
        hello(tmp_path, 4)
        assert [entry for entry in entries(tmp_path) if entry != 2] == [1, 3, 4]
        assert path.read_bytes().startswith(whole[:end] + b"\n")  # what was torn is kept
        checked = check.check(tmp_path)
        assert (checked.lines, checked.torn, checked.faults) == (4, unclosed.torn, ())
    path.write_bytes(whole[:begin])
    hello(tmp_path, 3)
    assert check.check(tmp_path) == check.Checked(lines=2, torn=(), faults=(), begins_after="")


def test_a_mark_that_is_torn_itself_spoils_nothing_either(tmp_path: Path) -> None:
    hello(tmp_path, 1)
    path = tmp_path / egress_log.LOG
    begun = path.read_bytes() + b'{"bytes'
    path.write_bytes(begun)
    hello(tmp_path, 2)
    marked = path.read_bytes().splitlines(keepends=True)[2]
    for end in range(1, len(marked)):
        path.write_bytes(begun + b"\n" + marked[:end])
        hello(tmp_path, 3)
        assert entries(tmp_path) == [1, 3]
        checked = check.check(tmp_path)
        assert (checked.torn, checked.faults) == (("egress.jsonl line 2", "egress.jsonl line 3"), ())


def test_a_crash_at_any_point_of_putting_a_file_away_leaves_a_log_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_log, "MAX_BYTES", 300)
    hello(tmp_path, 1)
    hello(tmp_path, 2)
    log = tmp_path / egress_log.LOG
    log.write_bytes(log.read_bytes()[:-5])
    hello(tmp_path, 3)
    assert [file.name for file in egress_log.files(tmp_path)] == ["egress.00001.jsonl", egress_log.LOG]
    assert check.check(tmp_path).torn == ("egress.00001.jsonl line 2",)
    log.rename(tmp_path / "egress.00002.jsonl")  # and there the machine stopped
    hello(tmp_path, 4)
    assert check.check(tmp_path).faults == ()
    assert entries(tmp_path) == [1, 3, 4]


def test_a_file_that_was_altered_or_taken_away_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_log, "MAX_BYTES", 300)
    for entry in range(9):
        hello(tmp_path, entry)
    first, second, third, *_ = egress_log.files(tmp_path)
    assert check.check(tmp_path).faults == ()
    kept = second.read_bytes()
    second.write_bytes(kept.replace(b'"bytes": 0', b'"bytes": 1', 1))
    assert check.check(tmp_path).faults == (f"{second.name} is not as it was when {third.name} was begun",)
    second.unlink()
    assert "does not go on from egress.00001.jsonl" in check.check(tmp_path).faults[0]
    second.write_bytes(kept)
    first.unlink()
    assert check.check(tmp_path).faults == ()
    assert check.check(tmp_path).begins_after == first.name
    log = tmp_path / egress_log.LOG
    log.write_bytes(log.read_bytes() + b"not JSON\n[1]\n")
    assert len(check.check(tmp_path).faults) == 2
