"""The offline bundle: exact versions and hashes from constraints.txt, nothing beside, and pip takes no other byte."""

import base64
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from common.errors import StateError
from deploy.install.offline_bundle import CONSTRAINTS, OURS, ROOT, needed, pins, requirements


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
    pinned = pins(CONSTRAINTS.read_text())
    names = needed([OURS]) - {"wardround"}
    assert names <= set(pinned)
    assert {"torch", "flwr", "cryptography", "uvicorn", "dicomweb-client", "h11", "rapidocr-onnxruntime"} <= names
    assert not {"pytest", "ruff", "ray", "deid-data"} & names


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


def installed(folder: Path) -> Path:
    """What pip leaves of our wheel in a folder: the packages, the metadata of this environment, a script, a RECORD."""
    place, info = folder / "site", "wardround-0.1.0.dist-info"
    for package in ("common", "client", "server", "deploy"):
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
    (place / info).mkdir()
    own = importlib.metadata.distribution("wardround")
    for name in ("METADATA", "WHEEL", "entry_points.txt"):
        (place / info / name).write_text(own.read_text(name) or "")
    lines = [f"{info}/RECORD,,", f"{info}/INSTALLER,,", "../../bin/wardround,,", "common/__pycache__/a.pyc,,"]
    (place / info / "INSTALLER").write_text("pip")
    for path in sorted(path for path in place.rglob("*") if path.is_file() and path.name != "INSTALLER"):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        lines.append(f"{path.relative_to(place)},sha256={digest},{path.stat().st_size}")
    (place / info / "RECORD").write_text("\n".join(lines) + "\n")
    return place


def repacked(place: Path, out: Path) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    words = (
        "from pathlib import Path; from deploy.install import offline_bundle as bundle; "
        f"print(bundle.repack('wardround', Path({str(out)!r})))"
    )
    return subprocess.run(
        [sys.executable, "-c", words], env={**os.environ, "PYTHONPATH": str(place)}, cwd=out, capture_output=True,
        text=True, timeout=200, check=False,
    )  # fmt: skip


def test_an_installed_wheel_makes_the_very_wheel_it_came_from(tmp_path: Path) -> None:
    place = installed(tmp_path)
    done = repacked(place, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.strip())
    assert made.name == "wardround-0.1.0-py3-none-any.whl"
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps",
               "--no-compile", "--target", tmp_path / "again", made]  # fmt: skip
    assert subprocess.run(command, capture_output=True, timeout=200, check=False).returncode == 0
    for package in ("common", "client", "server", "deploy"):
        for path in (place / package).rglob("*"):
            if path.is_file():
                assert (tmp_path / "again" / path.relative_to(place)).read_bytes() == path.read_bytes()
    assert (tmp_path / "again" / "deploy" / "constraints.txt").exists()
    assert (tmp_path / "again" / "bin" / "wardround").exists()
    assert repacked(place, tmp_path / "out").returncode == 0
    first = made.read_bytes()
    repacked(place, tmp_path / "out")
    assert made.read_bytes() == first


def test_an_installed_file_that_was_changed_is_carried_to_no_hospital(tmp_path: Path) -> None:
    place = installed(tmp_path)
    (place / "client" / "site" / "policy.py").write_text("limits = None\n")
    done = repacked(place, tmp_path / "out")
    assert done.returncode == 1
    assert "client/site/policy.py is not what was installed" in done.stderr
