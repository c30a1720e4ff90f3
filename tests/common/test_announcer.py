"""A daemon says each change once, in one line."""

from common.host.announcer import Announcer


def said(lines: list[str]) -> list[str]:
    assert all(line[2] == line[5] == ":" for line in lines), "each begins with the time"
    return [line[10:] for line in lines]


def test_words_are_said_when_they_change_and_not_before() -> None:
    lines: list[str] = []
    announcer = Announcer(lines.append)
    for words in ("online", "online", "offline", "offline", "", "", "offline"):
        announcer.tell("site north", words)
    announcer.tell("site hill", "offline")
    assert said(lines) == [
        "site north: online", "site north: offline", "site north: offline", "site hill: offline",
    ]  # fmt: skip


def test_an_event_is_said_each_time() -> None:
    lines: list[str] = []
    announcer = Announcer(lines.append)
    announcer.event("a request was refused")
    announcer.event("a request was refused")
    assert said(lines) == ["a request was refused"] * 2


def test_health_says_what_is_ill_and_a_warning_does_not_stop_the_work() -> None:
    lines: list[str] = []
    announcer, needed = Announcer(lines.append), frozenset(("disk", "clock"))
    for reasons in (
        {"disk": "not checked yet", "clock": "", "end": ""},
        {"disk": "", "clock": "", "end": ""},
        {"disk": "", "clock": "", "end": "soon"},
        {"disk": "", "clock": "", "end": "soon"},
        {"disk": "full", "clock": "off", "end": "soon"},
    ):
        announcer.health("north", reasons, needed=needed, ready="ready")
    assert said(lines) == [
        "north: NOT READY (disk: not checked yet)", "north: ready", "warning, end: soon",
        "north: NOT READY (clock: off; disk: full)",
    ]  # fmt: skip
