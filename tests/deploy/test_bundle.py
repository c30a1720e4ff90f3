"""The offline bundle: exact versions and hashes from constraints.txt, nothing beside, and pip takes no other byte."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.errors import StateError
from deploy.bundle import ROOT, asked, needed, pins, requirements


def wheel(folder: Path, name: str, version: str, *, content: str = "") -> Path:
    """A real wheel of one module."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def test_everything_wardround_needs_is_pinned_and_no_test_tool_is_needed() -> None:
    pinned = pins((ROOT / "constraints.txt").read_text())
    names = needed(asked((ROOT / "pyproject.toml").read_text()))
    assert names <= set(pinned)
    assert {"torch", "flwr", "cryptography", "uvicorn", "dicomweb-client", "h11"} <= names
    assert not {"pytest", "ruff", "ray", "deid-data", "wardround"} & names


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch== ", "-r other.txt", "torch==2.*"])
def test_a_line_that_pins_no_exact_version_is_refused(line: str) -> None:
    with pytest.raises(StateError, match="pins no exact version"):
        pins(f"# a comment\nnumpy==1.0\n{line}\n")


def test_each_wheel_is_listed_with_the_hash_of_its_bytes(tmp_path: Path) -> None:
    one = wheel(tmp_path, "one", "1.0")
    digest = hashlib.sha256(one.read_bytes()).hexdigest()
    assert requirements(tmp_path, {"one": "1.0"}) == f"one==1.0 \\\n    --hash=sha256:{digest}\n"


def test_a_missing_an_older_and_an_unasked_wheel_are_refused(tmp_path: Path) -> None:
    wheel(tmp_path, "one", "1.0")
    for pinned in ({"one": "1.0", "two": "2.0"}, {"one": "1.1"}, {}):
        with pytest.raises(StateError):
            requirements(tmp_path, pinned)


def test_a_wheel_for_another_processor_of_the_same_version_is_taken_and_named_exactly(tmp_path: Path) -> None:
    wheel(tmp_path, "one", "1.0+cpu")
    assert requirements(tmp_path, {"one": "1.0"}).startswith("one==1.0+cpu \\\n")


def test_pip_installs_from_the_folder_alone_and_refuses_a_changed_wheel(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "one", "1.0")
    listed = tmp_path / "requirements.txt"
    listed.write_text(requirements(tmp_path / "wheels", {"one": "1.0"}))

    def install(target: str) -> int:
        command = [
            sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--find-links",
            tmp_path / "wheels", "--require-hashes", "-r", listed, "--target", tmp_path / target,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, timeout=200, check=False).returncode

    assert install("good") == 0
    assert (tmp_path / "good" / "one.py").exists()
    wheel(tmp_path / "wheels", "one", "1.0", content="import os")
    assert install("bad") != 0
