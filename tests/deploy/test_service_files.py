"""Units, compose files and the nginx template promise what the documentation says of them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.install.offline_bundle import CONSTRAINTS, OURS, ROOT
from server.gateway.gateway import PATHS

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
COMPOSE = sorted((ROOT / "deploy" / "docker").glob("compose.*.yaml"))
HARDENED = {
    "NoNewPrivileges=yes", "PrivateTmp=yes", "ProtectSystem=strict", "ProtectHome=yes", "CapabilityBoundingSet=",
    "RestrictSUIDSGID=yes", "RestrictNamespaces=yes", "SystemCallArchitectures=native", "UMask=0077",
    "Restart=always", "RestartSec=10", "StartLimitIntervalSec=0", "User=wardround",
}  # fmt: skip


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_is_hardened_restarts_for_ever_and_writes_only_its_state(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert set(lines) >= HARDENED
    assert [line for line in lines if line.startswith("ReadWritePaths=")] == [f"ReadWritePaths=/var/lib/{unit.stem}"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_every_line_of_a_unit(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=100, check=False)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line and "is not executable" not in line]
    assert complaints == []


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.stem)
def test_a_container_is_not_root_cannot_write_its_image_and_says_how_it_is(path: Path) -> None:
    (service,) = services(path)
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "always"
    assert "status" in service["healthcheck"]["test"]


def test_a_hospitals_container_publishes_no_port_and_mounts_the_scans_read_only() -> None:
    (service,) = services(ROOT / "deploy" / "docker" / "compose.site.yaml")
    assert "ports" not in service
    assert next(volume for volume in service["volumes"] if "/scans" in volume).endswith(":/scans:ro")


def services(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load(path.read_text())["services"].values())


def test_the_nginx_template_shows_the_same_paths_as_the_gateway_and_asks_for_certificates() -> None:
    text = (ROOT / "deploy" / "examples" / "nginx.conf").read_text()
    names = re.search(r"location ~ \^/v1/fleet/\(([a-z|-]+)\)\$", text)
    assert names is not None
    assert {f"/v1/fleet/{name}".encode() for name in names[1].split("|")} == PATHS
    for line in ("ssl_verify_client       on;", "ssl_crl  ", "limit_except POST", "proxy_ssl_verify              on;"):
        assert line in text


SIDES = [("server", "coordinator", "WARDROUND_SERVER_HOME"), ("site", "site", "WARDROUND_HOME")]


def of_the_unit(side: str) -> tuple[list[str], dict[str, str]]:
    """Arguments of `wardround` in a unit, and its environment."""
    text = (ROOT / "deploy" / "systemd" / f"wardround-{side}.service").read_text()
    (line,) = re.findall(r"(?m)^ExecStart=/opt/wardround/bin/wardround (.*)$", text)
    pairs = [pair for row in re.findall(r"(?m)^Environment=(.*)$", text) for pair in row.split()]
    return line.split(), dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize(("side", "name", "variable"), SIDES)
def test_unit_container_and_document_name_one_home_one_user_and_one_path(side: str, name: str, variable: str) -> None:
    home = f"/var/lib/wardround-{side}/home"
    arguments, environment = of_the_unit(side)
    assert arguments == [side, "serve", "--home", home]
    assert environment[variable] == home
    assert environment["PATH"].split(":")[0] == "/opt/wardround/bin"
    (service,) = services(ROOT / "deploy" / "docker" / f"compose.{name}.yaml")
    assert service["command"] == arguments
    assert service["environment"][variable] == home
    assert service["working_dir"] == f"/var/lib/wardround-{side}", "files are written where they outlive the container"
    assert f"{name if side == 'server' else 'site'}-state:/var/lib/wardround-{side}" in service["volumes"]
    assert service["healthcheck"]["test"][-1] == home
    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    assert f" /var/lib/wardround-{side}" in image
    assert "ENV PATH=/opt/wardround/bin:$PATH" in image
    for key, value in environment.items():
        assert key in ("PATH", variable) or f"{key}={value}" in image, "the same switches in unit and container"
    document = (ROOT / "docs" / "operations.md").read_text()
    assert f"export PATH=/opt/wardround/bin:$PATH {variable}={home}" in document
    assert f"install -d -o wardround -g wardround -m 0700 /var/lib/wardround-{side}\n" in document


def test_text_detection_is_part_of_every_documented_install() -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    assert 'pip install -c constraints.txt ".[ocr]"' in document
    assert '-c deploy/constraints.txt ".[ocr]"' in image
    assert '-e ".[ocr,' in (ROOT / "Makefile").read_text()
    assert OURS == "wardround[ocr]"
    assert (ROOT / "constraints.txt").read_bytes() == CONSTRAINTS.read_bytes(), "one list, in the wheel and at the root"
    for text in (document, image):
        assert "libgl1 libglib2.0-0" in text, "without them the detector cannot be loaded"
