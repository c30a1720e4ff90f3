"""The three enrolment files: exact form, proofs that hold the whole request, and no secret readable by others."""

import dataclasses
import json
import stat
from pathlib import Path

import pytest

from common.errors import MessageRefused, StateError
from common.wire import pki
from common.wire.enrolment import MAX_BYTES, Invite, JoinRequest, Welcome

INVITE = Invite(
    site="north", address="localhost:1", ca_certificate="PEM", token="secret", expires="2030-01-01T00:00:00Z"
)
REQUEST = JoinRequest(site="north", node_key="key", verdict_key="5a" * 32, csr="csr")


def test_a_file_reads_back_as_it_was_written_and_is_private(tmp_path: Path) -> None:
    INVITE.save(tmp_path / "north.invite.json")
    assert Invite.load(tmp_path / "north.invite.json") == INVITE
    assert stat.S_IMODE((tmp_path / "north.invite.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [{"kind": "welcome"}, {"schema": 2}, {"more": ""}, {"token": 7}, {"token": None}],
)
def test_a_file_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MessageRefused):
        Invite.parse(json.dumps({**INVITE.to_dict(), **change}).encode())
    with pytest.raises(MessageRefused):
        Welcome.parse(json.dumps(INVITE.to_dict()).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"7", b'{"kind":'])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(MessageRefused):
        Invite.parse(content)


def test_an_endless_file_is_not_read_and_an_absent_one_is_explained(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(MessageRefused, match="larger"):
        Invite.load(tmp_path / "long")
    with pytest.raises(StateError, match="cannot be read"):
        Invite.load(tmp_path / "absent")


def test_a_site_name_that_is_a_path_is_refused() -> None:
    with pytest.raises(StateError, match="site name"):
        Invite.parse(json.dumps({**INVITE.to_dict(), "site": "../north"}).encode())


@pytest.mark.parametrize(
    "change", [{"site": "south"}, {"node_key": "other"}, {"csr": "other"}, {"verdict_key": "5b" * 32}]
)
def test_a_proof_covers_every_word_of_the_request(change: dict[str, str]) -> None:
    proven = REQUEST.proven("secret")
    proven.require_proof("secret")
    with pytest.raises(MessageRefused):
        dataclasses.replace(proven, **change).require_proof("secret")
    with pytest.raises(MessageRefused):
        proven.require_proof("another")


def test_a_renewal_is_proven_by_the_old_key_alone() -> None:
    authority, key = pki.make_authority("test"), pki.new_key()
    certificate = pki.issue_client(authority, pki.make_request(key, "north"), "north")
    REQUEST.signed(key).require_signature(certificate)
    for forged in (REQUEST.signed(pki.new_key()), REQUEST, dataclasses.replace(REQUEST.signed(key), csr="other")):
        with pytest.raises(MessageRefused):
            forged.require_signature(certificate)
