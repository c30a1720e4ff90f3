"""Text is read and written as UTF-8 whatever the locale, a byte-order mark or not, and what is none is told truly."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from client.site import rules_file
from client.site.policy import SitePolicy
from common.display.texts import NotText, decoded
from common.errors import LabelsError, PlanError, StateError
from common.plan.study_plan import StudyPlan
from server.coordinator.home import Home
from tests.client.scans import cohort

ROOT = Path(__file__).resolve().parents[2]
PLAN = 'name = "s"\n[data]\nlabels = ["normal", "ödem"]\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(PLAN.encode(encoding))
    assert StudyPlan.load(path).digest == StudyPlan.parse(PLAN).digest


@pytest.mark.parametrize(("content", "told"), [
    (PLAN.encode("utf-16"), "saved as UTF-16. Save it as UTF-8"),
    (PLAN.encode("utf-16-le"), "not"),
    (PLAN.encode("utf-32"), "saved as UTF-32"),
    (PLAN.encode("latin-1"), "line 3 is not UTF-8"),
])  # fmt: skip
def test_another_encoding_is_named_or_its_line_is(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "plan.toml").write_bytes(content)
    (tmp_path / "site.toml").write_bytes(content)
    (tmp_path / "server.toml").write_bytes(content)
    with pytest.raises(PlanError, match=told):
        StudyPlan.load(tmp_path / "plan.toml")
    for load in (SitePolicy.load, Home.open):
        with pytest.raises(StateError, match=told) as caught:
            load(tmp_path)
        assert "Create it" not in str(caught.value), "it is there"
    with pytest.raises(StateError, match="Create it first"):
        SitePolicy.load(tmp_path / "nowhere")


def test_a_label_table_of_a_spreadsheet_is_told_what_it_is(tmp_path: Path) -> None:
    from client.admission.labels import Labels

    cohort(tmp_path, patients=1)
    (tmp_path / "labels.csv").write_bytes("patient_id,sop_instance_uid,label\nP0,,ödem\n".encode("utf-16"))
    with pytest.raises(LabelsError, match="saved as UTF-16"):
        Labels.read(tmp_path / "labels.csv", ("ödem", "x"), bytes(32))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_lower_limit_leaves_every_other_byte_as_it_is_in_any_locale(tmp_path: Path, mark: bytes, end: bytes) -> None:
    rules_file.init(tmp_path, "north")
    path = tmp_path / "site.toml"
    path.write_bytes(mark + ("# Größe: 3 µm\n" + path.read_text(encoding="utf-8")).encode().replace(b"\n", end))
    before = path.read_bytes()
    words = (
        "from pathlib import Path; from client.site import rules_file as site_file\n"
        f"site_file.lower(Path({str(tmp_path)!r}), study=1.5, total=None)"
    )
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", words], env=environment, cwd=ROOT, capture_output=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    old = SitePolicy.load(tmp_path)
    assert old.limits.max_epsilon_per_study == 1.5
    lines = zip(before.split(b"\n"), path.read_bytes().split(b"\n"), strict=True)
    (changed,) = [now for was, now in lines if was != now]
    assert changed.startswith(b"max_epsilon_per_study = 1.5")
    assert changed.endswith(b"\r") == (end == b"\r\n")


def test_bytes_that_are_no_text_are_refused_with_their_line() -> None:
    with pytest.raises(NotText, match="line 2"):
        decoded(b"a\n\xff\n")


def test_no_module_leaves_the_encoding_to_the_locale() -> None:
    left = []
    for package in ("common", "client", "server", "deploy", "scripts"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and leaves_it(node):
                    left.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert left == []


def leaves_it(call: ast.Call) -> bool:
    """Whether a call reads or writes text and names no encoding."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in named or not isinstance(call.func, ast.Attribute | ast.Name):
        return False
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
    if name == "open" and not ast.unparse(call.func).startswith("archive."):  # a zip's members are bytes
        modes = [a.value for a in [*call.args, named.get("mode")] if isinstance(a, ast.Constant)]
        mode = next((m for m in modes if isinstance(m, str) and m and set(m) <= set("rwaxbt+")), "")
        return bool(mode) and "b" not in mode
    on = named.get("text")
    texts = isinstance(on, ast.Constant) and on.value is True and name in ("run", "Popen", "check_output")
    return texts or (name in ("read_text", "write_text") and len(call.args) < (1 if name == "read_text" else 2))
