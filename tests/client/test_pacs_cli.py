"""The commands `pull` and `receive` say what is wrong with their options, and count in JSON what they did."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from client.pacs.cli import pull, receive
from common.display.terminal import Commands
from tests.client.pacs_bench import command, make_studies
from tests.client.pacs_peers import web_pacs

site = Commands("site", commands={"pull": pull, "receive": receive})
DOCS = Path(__file__).resolve().parents[2] / "docs" / "pacs.md"


def invoke(*args: str, **env: str):
    return CliRunner().invoke(site, args, env={"WARDROUND_PACS_TOKEN": ""} | env)


@pytest.fixture
def server(tmp_path):
    with web_pacs(make_studies(tmp_path / "source", patients=2, studies=1)) as server:
        yield server


def test_pull_counts_what_it_did_and_ends_with_0(tmp_path, server):
    done = invoke("pull", "--to", str(tmp_path / "to"), "--dicomweb", server.url, "--json")
    assert done.exit_code == 0
    size = sum(path.stat().st_size for path in (tmp_path / "to").glob("*/*.dcm"))
    assert json.loads(done.stdout) == {
        "studies": 2,
        "done": 2,
        "failed": 0,
        "skipped": 0,
        "instances": 6,
        "bytes": size,
        "errors": {},
    }
    again = invoke("pull", "--to", str(tmp_path / "to"), "--dicomweb", server.url)
    assert "2 studies announced: 0 pulled, 2 were here, 0 failed" in again.stdout


def test_study_that_fails_is_counted_and_ends_with_4(tmp_path, server):
    first = next(iter(server.studies))
    honest = server.answer
    server.answer = lambda path: (404, {}, b"") if f"{first}/series" in path else honest(path)
    done = invoke("pull", "--to", str(tmp_path / "to"), "--dicomweb", server.url, "--json")
    assert done.exit_code == 4
    summary = json.loads(done.stdout)
    assert (summary["done"], summary["failed"], summary["errors"]) == (1, 1, {"PacsRefused": 1})
    text = invoke("pull", "--to", str(tmp_path / "to"), "--dicomweb", server.url)
    assert "not pulled: 1 (PacsRefused)" in text.stdout


def test_token_comes_from_a_file_or_the_environment_and_is_no_option(tmp_path, server):
    (tmp_path / "token").write_text("s3cret\n")
    to = ["--dicomweb", server.url, "--to", str(tmp_path / "to")]
    assert invoke("pull", *to, "--token-file", str(tmp_path / "token")).exit_code == 0
    assert invoke("pull", *to, WARDROUND_PACS_TOKEN="other").exit_code == 0
    assert {authorization for _, authorization, _ in server.requests} == {"Bearer s3cret", "Bearer other"}
    assert invoke("pull", *to, "--token", "s3cret").exit_code == 2
    for bad in ("", "two words", "two\nlines", "é"):
        (tmp_path / "token").write_text(bad)
        assert invoke("pull", *to, "--token-file", str(tmp_path / "token")).exit_code == 2


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ([], "name one PACS"),
        (["--dicomweb", "https://a", "--dimse", "a:1"], "name one PACS"),
        (["--dicomweb", "http://pacs.example"], "in the clear"),
        (["--dicomweb", "https://me:pw@pacs.example"], "token-file"),
        (["--dimse", "pacs.example:104"], "--aet"),
        (["--dimse", "pacs.example", "--aet", "P"], "HOST:PORT"),
        (["--dimse", "pacs.example:x", "--aet", "P"], ""),
        (["--dimse", "127.0.0.1:104", "--aet", "A" * 17], "AE title"),
        (["--dimse", "pacs.example:104", "--aet", "P", "--mode", "move"], "--move-bind"),
        (["--dimse", "a:1", "--aet", "P", "--modality", "ct"], "modality"),
        (["--dimse", "a:1", "--aet", "P", "--study-date", "today"], "study date"),
        (["--dimse", "a:1", "--aet", "P", "--patient-id", "a\\b"], "backslash"),
        (["--dicomweb", "https://a", "--cert", __file__], "belong together"),
    ],
)
def test_wrong_options_end_with_2_before_anything_is_written(tmp_path, args, reason):
    done = invoke("pull", "--to", str(tmp_path / "to"), *args)
    assert (done.exit_code, reason in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "to").exists()


def test_pacs_that_is_not_there_is_one_line_and_exit_code_4(tmp_path):
    with web_pacs({}) as server:
        pass
    done = invoke("pull", "--to", str(tmp_path / "to"), "--dicomweb", server.url, "--attempts", "1")
    assert done.exit_code == 4
    assert re.fullmatch(r"wardround: PacsUnreachable: .*\n", done.stderr)


def test_receive_wants_to_know_who_may_send(tmp_path):
    assert invoke("receive", "--to", str(tmp_path / "to")).exit_code == 2
    assert invoke("receive", "--to", str(tmp_path / "to"), "--allow", "x" * 17).exit_code == 2


@pytest.mark.parametrize("element", ["SOPInstanceUID", "TransferSyntaxUID"])
def test_value_that_breaks_a_rule_is_repeated_on_no_stream(tmp_path, element):
    """pydicom warns with the value itself; a patient's data would end in a journal."""
    studies = make_studies(tmp_path / "source", patients=1, studies=1, objects=1)
    sop, path = next(iter(next(iter(studies.values())).items()))
    value = (sop if element == "SOPInstanceUID" else "1.2.840.10008.1.2.1").encode()
    path.write_bytes(path.read_bytes().replace(value, b"DoeJohn" + value[7:]))
    with web_pacs(studies) as server:
        server.instance_item = lambda path: {"0020000E": {"Value": ["1.2"]}, "00080018": {"Value": [sop]}}
        done = subprocess.run(
            command("pull", "--to", str(tmp_path / "to"), "--dicomweb", server.url), capture_output=True, timeout=60
        )
    assert done.returncode == (4 if element == "SOPInstanceUID" else 0)
    assert b"DoeJohn" not in done.stdout + done.stderr


def test_each_option_is_in_the_document():
    text = DOCS.read_text()
    for one in (pull, receive):
        assert f"site {one.name}" in text
        for option in one.params:
            for name in option.opts:
                assert f"`{name}" in text or f" {name} " in text, name
