"""What was signed cannot be altered, dropped or signed by somebody else without being noticed."""

import base64
import json
import string
from pathlib import Path

import pytest

from common.errors import SignatureInvalid, StateError
from common.wire.signing import MANIFEST, SIGNATURE, Key, sign_folder, verify, verify_folder


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"decoder")
    (folder / "b.txt").write_bytes(b"card")
    sign_folder(folder, ["a.txt", "b.txt"], Key.at(tmp_path / "key"))
    return folder


def test_an_unaltered_folder_passes_and_names_its_signer(signed: Path, tmp_path: Path) -> None:
    signer = Key.at(tmp_path / "key").public
    assert verify_folder(signed) == verify_folder(signed, trusted=signer) == signer
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["a.txt", "b.txt", MANIFEST, SIGNATURE])
def test_every_single_altered_byte_is_refused(signed: Path, name: str) -> None:
    whole = (signed / name).read_bytes()
    for place in range(len(whole)):
        for bit in (1, 32):
            altered = bytearray(whole)
            altered[place] ^= bit
            (signed / name).write_bytes(bytes(altered))
            with pytest.raises(SignatureInvalid):
                verify_folder(signed)
    (signed / name).write_bytes(whole + b"\n")
    with pytest.raises(SignatureInvalid):
        verify_folder(signed)
    (signed / name).unlink()
    with pytest.raises(SignatureInvalid):
        verify_folder(signed)


def test_a_folder_signed_again_by_somebody_else_is_refused_where_the_signer_is_known(
    signed: Path, tmp_path: Path
) -> None:
    right = verify_folder(signed)
    (signed / "a.txt").write_bytes(b"another decoder")
    sign_folder(signed, ["a.txt", "b.txt"], Key.at(tmp_path / "forger"))
    verify_folder(signed)
    with pytest.raises(SignatureInvalid, match="not by the trusted"):
        verify_folder(signed, trusted=right)


def test_a_manifest_cannot_reach_outside_its_folder(signed: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_bytes(b"x")
    sign_folder(signed, ["../outside.txt"], Key.at(tmp_path / "key"))
    with pytest.raises(SignatureInvalid):
        verify_folder(signed)


def test_a_manifest_that_says_the_same_in_another_form_is_refused(signed: Path) -> None:
    whole = (signed / MANIFEST).read_bytes()
    (signed / MANIFEST).write_bytes(json.dumps(json.loads(whole), indent=1).encode())
    with pytest.raises(SignatureInvalid, match="not in the form"):
        verify_folder(signed)


def test_a_record_under_another_key_or_altered_is_refused(tmp_path: Path) -> None:
    key, other = Key.at(tmp_path / "key"), Key.at(tmp_path / "other")
    record = {"site": "north", "outcome": "passed"}
    signature = key.sign(record)
    verify(record, signature, public=key.public, what="record")
    for changed, by in (({**record, "outcome": "x"}, key), (record, other)):
        with pytest.raises(SignatureInvalid):
            verify(changed, signature, public=by.public, what="record")
    for broken in ("", "%%%", signature[:-4], signature.replace("=", "")):
        with pytest.raises(SignatureInvalid):
            verify(record, broken, public=key.public, what="record")


def test_a_file_that_is_no_key_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("no key")
    with pytest.raises(StateError, match="signing key"):
        Key.at(tmp_path / "key")


def test_the_same_signature_said_another_way_is_refused(tmp_path: Path) -> None:
    key, record = Key.at(tmp_path / "key"), {"what": "a record"}
    signature = key.sign(record)
    verify(record, signature, public=key.public, what="record")
    letters = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    twin = signature[:-3] + letters[letters.index(signature[-3]) ^ 1] + "=="
    assert base64.b64decode(twin) == base64.b64decode(signature)
    for said, public in ((twin, key.public), (signature, key.public.upper())):
        with pytest.raises(SignatureInvalid):
            verify(record, said, public=public, what="record")
