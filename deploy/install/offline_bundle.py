"""Gather everything a hospital without internet needs to install wardround: `wardround bundle OUT`.

    OUT/wheels/            our own wheel and those of every package it needs, and no other
    OUT/requirements.txt   each with its exact version and the SHA-256 of its file
    OUT/install.sh         makes a virtual environment from these files alone; pip refuses any other byte
    OUT/systemd/           the units of both sides

Run it on a machine of the same system and Python version as the hospital's, where wardround is installed: from a wheel,
or in a checkout. The hospital compares the SHA-256 of requirements.txt, which this prints, by telephone.
"""

import base64
import hashlib
import importlib.metadata
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import click
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from common.display.terminal import emit, json_option
from common.errors import StateError
from common.host.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "deploy" / "constraints.txt"
"""The exact versions; part of the wheel."""
OURS = "wardround[ocr]"
"""What every documented way installs: text in pictures is looked for, unless a hospital says no."""
_UNPACKED = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")
"""What an installer writes in addition to a wheel's own files."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_INSTALL = """\
#!/bin/sh
# Install wardround from this folder alone: ./install.sh [FOLDER]   (default /opt/wardround)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-/opt/wardround}
python3 -m venv "$target"
"$target/bin/pip" install --disable-pip-version-check --no-index --find-links "$here/wheels" \\
    --require-hashes -r "$here/requirements.txt"
"$target/bin/wardround" --version
"""


def pins(constraints: str) -> dict[str, str]:
    """Version by canonical name in the text of a constraints.txt; `StateError` for a line that pins none."""
    found: dict[str, str] = {}
    for line in constraints.splitlines():
        if not (text := line.partition("#")[0].strip()):
            continue
        name, exact, version = text.partition("==")
        if not exact or not re.fullmatch(r"[\w.!+-]+", version):
            raise StateError(f"constraints.txt: {text[:60]!r} pins no exact version")
        found[canonicalize_name(name)] = version
    return found


def needed(wanted: Iterable[str]) -> set[str]:
    """Canonical names of everything that the requirements `wanted` bring along on a machine like this one.

    Raises:
        StateError: Something they need is not installed here.
    """
    done: set[tuple[str, str]] = set()
    todo = [(line, "") for line in wanted]
    while todo:
        line, extra = todo.pop()
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for each in ("", *sorted(requirement.extras)):
            if (name, each) not in done:
                done.add((name, each))
                todo += [(inner, each) for inner in _requires(name)]
    return {name for name, _ in done}


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise StateError(f"{name} is not installed here. Run `make install` first") from error


def requirements(wheels: Path, pinned: dict[str, str]) -> str:
    """Text of a requirements.txt with the hash of every wheel in a folder.

    Args:
        wheels: Folder of wheels.
        pinned: Version by name that each must have.

    Raises:
        StateError: A wheel is missing, or is of another version or of no pinned package.
    """
    lines: dict[str, list[str]] = {}
    for path in sorted(wheels.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(path.name)
        if pinned.get(name) != version.public:  # torch's wheels add where they come from: 2.13.0+cpu
            raise StateError(f"{path.name} is not the pinned version of {name} ({pinned.get(name, 'none')})")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        lines.setdefault(f"{name}=={version}", []).append(f"    --hash=sha256:{digest}")
    if missing := sorted(set(pinned) - {line.partition("==")[0] for line in lines}):
        raise StateError(f"no wheel of {missing[0]}. Gather the bundle again")
    return "".join(" \\\n".join([line, *hashes]) + "\n" for line, hashes in sorted(lines.items()))


def gather(out: Path) -> str:
    """Fill the folder `out`; return the SHA-256 of its requirements.txt. Asks the package index that pip is set to.

    Raises:
        StateError: `out` holds something, a version is not pinned, or pip fails.
    """
    if out.exists() and any(out.iterdir()):
        raise StateError(f"{out} is not empty. Name another folder")
    everything = pins(CONSTRAINTS.read_text(encoding="utf-8"))
    names = needed([OURS]) - {"wardround"}
    if unpinned := sorted(names - set(everything)):
        raise StateError(f"constraints.txt does not pin {', '.join(unpinned)}. Add the version that is installed")
    pinned = {name: everything[name] for name in names}
    wheels = out / "wheels"
    wheels.mkdir(parents=True)
    if (ROOT / "pyproject.toml").exists():
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT))
    else:
        repack("wardround", wheels)
    exact = [f"{name}=={version}" for name, version in sorted(pinned.items())]
    _pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(wheels), *exact)
    pinned["wardround"] = importlib.metadata.version("wardround")
    text = requirements(wheels, pinned).encode()
    write_atomically(out / "requirements.txt", text)
    write_atomically(out / "install.sh", _INSTALL.encode(), mode=0o755)
    for unit in sorted((ROOT / "deploy" / "systemd").glob("*.service")):
        write_atomically(out / "systemd" / unit.name, unit.read_bytes())
    return hashlib.sha256(text).hexdigest()


def repack(name: str, folder: Path) -> Path:
    """Write the wheel of an installed package again, from the files that were installed; return its path.

    Raises:
        StateError: It was not installed from a wheel, or a file of it is not what was installed.
    """
    found = importlib.metadata.distribution(name)
    tags = re.findall(r"(?m)^Tag: (\S+)$", found.read_text("WHEEL") or "")
    files = [file for file in found.files or () if _of_the_wheel(file)]
    if not tags or not any(file.parts[-1] == "METADATA" for file in files):
        raise StateError(f"{name} is not installed from a wheel. Install it so, or work in a checkout")
    path = folder / f"{name}-{found.version}-{tags[0]}.whl"
    lines = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(files, key=str):
            content = Path(str(file.locate())).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            if file.hash is None or (file.hash.mode, file.hash.value) != ("sha256", digest):
                raise StateError(f"{file} is not what was installed. Reinstall {name}")
            archive.writestr(zipfile.ZipInfo(str(file), _EPOCH), content, zipfile.ZIP_DEFLATED)
            lines.append(f"{file},sha256={digest},{len(content)}")
        record = next(str(file) for file in found.files or () if file.parts[-1] == "RECORD")
        listing = "\n".join([*lines, f"{record},,", ""])
        archive.writestr(zipfile.ZipInfo(record, _EPOCH), listing, zipfile.ZIP_DEFLATED)
    return path


def _of_the_wheel(file: importlib.metadata.PackagePath) -> bool:
    """Whether a file came in the wheel: no script that was made for it, no byte code, nothing of the installer's."""
    installers = file.parts[0].endswith(".dist-info") and file.parts[-1] in _UNPACKED
    return ".." not in file.parts and "__pycache__" not in file.parts and not installers


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@json_option
def bundle(out: Path, *, as_json: bool) -> None:
    """Gather in OUT what a hospital without internet installs, with the hash of every file."""
    digest = gather(out)
    emit(
        {"out": str(out), "requirements_sha256": digest},
        as_json=as_json,
        text=lambda: f"{out} is complete; SHA-256 of requirements.txt:\n{digest}",
    )


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise StateError(f"pip {arguments[0]} failed: {done.stderr.strip()[-600:]}")
