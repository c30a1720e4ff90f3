"""What is pushed to us is taken from named senders only, whole and capped, until we are told to stop."""

import gc
import json
import os
import re
import signal
import socket
import struct
import subprocess
from dataclasses import replace

import pytest
from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from client.pacs.job import PullFolder
from client.pacs.receiver import OUT_OF_RESOURCES, ReceivedStudies, StoreReceiver
from client.pacs.study import PacsAnswerInvalid, PacsOverCap, hashed
from common.errors import StateError
from tests.client.pacs_bench import (
    CR,
    CT,
    SHORT,
    STORESCU,
    command,
    compressed_study,
    dataset_bytes,
    make_studies,
    names,
    needs_orthanc,
    pulled,
    wait_for,
    write_image,
)

# The senders of these tests are pynetdicom too: 3.0.4 does not close the socket of a connection that we cut off.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def loose_sockets_end_with_their_test():
    yield
    gc.collect()


@pytest.fixture
def studies(tmp_path):
    return make_studies(tmp_path / "source", patients=2, studies=1)


@pytest.fixture
def service(tmp_path):
    """A receiver in a process of its own: (process, port, folder)."""
    folder = tmp_path / "to"
    process = subprocess.Popen(
        command(
            "receive",
            "--to",
            str(folder),
            "--port",
            "0",
            "--allow",
            "SENDER",
            "--allow",
            "OTHER",
            "--json",
            "--max-instance-mib",
            "1",
            "--timeout",
            "5",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    port = int(re.search(r"port (\d+)", process.stderr.readline())[1])
    yield process, port, folder
    if process.poll() is None:
        process.kill()
    process.communicate()


def send(port: int, paths, *, calling="SENDER", called="WARDROUND") -> list[int | None]:
    """Send files with pynetdicom as they are; returns the status of each, None where the connection ended."""
    entity = AE(calling)
    files = [dcmread(path) for path in paths]
    for kind, syntax in {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in files}:
        entity.add_requested_context(kind, syntax)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return []
    statuses = [association.send_c_store(ds).get("Status") for ds in files if association.is_established]
    if association.is_established:
        association.release()
    return statuses


def stop(process) -> dict:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


def test_studies_that_are_pushed_land_by_hashed_names_and_sigterm_ends_cleanly(service, studies, tmp_path):
    process, port, folder = service
    sources = [path for objects in studies.values() for path in objects.values()]
    assert send(port, sources) == [0] * 6
    assert send(port, sources[:1], calling="OTHER") == [0]
    packed = compressed_study(tmp_path / "packed")
    assert send(port, next(iter(packed.values())).values()) == [0] * 6
    size = sum(path.stat().st_size for path in folder.glob("*/*.dcm"))
    assert stop(process) == {"studies": 3, "instances": 12, "skipped": 1, "refused": 0, "bytes": size}
    assert {study: set(files) for study, files in pulled(folder).items()} == names(studies | packed)
    for study, objects in studies.items():
        for sop, source in objects.items():
            assert dataset_bytes(pulled(folder)[hashed(study)][hashed(sop)]) == dataset_bytes(source)
    assert not list(folder.rglob("*.part"))


def test_strangers_and_wrong_addressees_are_rejected(service, studies):
    process, port, folder = service
    source = [next(iter(next(iter(studies.values())).values()))]
    assert send(port, source, calling="STRANGER") == []
    assert send(port, source, called="ELSE") == []
    assert stop(process)["instances"] == 0
    assert pulled(folder) == {}


def test_echo_tells_that_the_service_lives(service):
    _, port, _ = service
    entity = AE("SENDER")
    entity.add_requested_context(Verification)
    association = entity.associate("127.0.0.1", port, ae_title="WARDROUND")
    assert association.send_c_echo().Status == 0
    association.release()


def test_object_above_the_cap_is_cut_off_and_the_service_goes_on(service, studies, tmp_path):
    process, port, folder = service
    big = tmp_path / "big.dcm"
    write_image(
        big, patient="P", study="1.2.3", series="1.2", number=1, Rows=2048, Columns=2048, PixelData=bytes(8 * 2**20)
    )
    assert send(port, [big]) == [None]
    source = list(next(iter(studies.values())).values())
    assert send(port, source) == [0, 0, 0]
    numbers = stop(process)
    assert (numbers["instances"], numbers["refused"]) == (3, 1)
    assert set(pulled(folder)) == {hashed(next(iter(studies)))}


def test_peers_that_fall_silent_do_not_keep_others_out(service, studies):
    """Ten connections that stop inside a PDU: each would hold a thread of pynetdicom for ever."""
    process, port, folder = service
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
    for one, start in zip(silent, [b"\x01\x00", b"\x01\x00" + struct.pack(">L", 2**31), b""] * 4, strict=False):
        one.sendall(start)
    source = list(next(iter(studies.values())).values())
    wait_for(lambda: send(port, source) == [0, 0, 0])
    assert stop(process)["instances"] == 3
    for one in silent:
        one.close()
    assert len(pulled(folder)) == 1


def test_stop_with_a_sender_still_connected_is_prompt_and_leaves_whole_files(service, studies):
    process, port, folder = service
    source = list(next(iter(studies.values())).values())
    entity = AE("SENDER")
    entity.add_requested_context(CT)
    entity.add_requested_context(CR)
    association = entity.associate("127.0.0.1", port, ae_title="WARDROUND")
    assert association.send_c_store(dcmread(source[0])).Status == 0
    assert stop(process)["instances"] == 1
    association.abort()
    assert [path.name for path in folder.rglob("*.part")] == []


def test_killed_receiver_leaves_nothing_that_counts_as_an_object(service, studies):
    process, port, folder = service
    sources = [path for objects in studies.values() for path in objects.values()]
    assert send(port, sources[:2]) == [0, 0]
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    (folder / ".pulling" / "abc.part").write_bytes(b"half")
    with PullFolder(folder):
        assert list((folder / ".pulling").glob("*.part")) == []
    assert [len(files) for files in pulled(folder).values()] == [2]


def test_port_in_use_and_folder_in_use_end_with_exit_code_5(service, tmp_path):
    _, port, folder = service
    for args in (["--to", str(tmp_path / "b"), "--port", str(port)], ["--to", str(folder), "--port", "0"]):
        done = subprocess.run(
            command("receive", "--allow", "SENDER", *args), capture_output=True, timeout=60, text=True
        )
        assert done.returncode == 5, done.stderr
        assert "Traceback" not in done.stderr


def test_full_disk_tells_the_sender_and_ends_the_service(tmp_path, studies):
    limits = replace(SHORT, free_bytes=2**60)
    with PullFolder(tmp_path / "to") as place:
        received = ReceivedStudies(place, limits=limits)
        with StoreReceiver(
            "WARDROUND",
            ("127.0.0.1", 0),
            callers=["SENDER"],
            limits=limits,
            deliver=received.deliver,
            on_error=received.refuse,
        ) as receiver:
            statuses = send(receiver.port, list(next(iter(studies.values())).values())[:1])
        assert statuses == [OUT_OF_RESOURCES]
        assert received.stop.is_set()
        assert isinstance(received.fatal, StateError)


def test_number_of_studies_and_of_their_objects_is_capped(tmp_path, studies):
    data = [[path.read_bytes() for path in objects.values()] for objects in studies.values()]
    with PullFolder(tmp_path / "to") as place:
        received = ReceivedStudies(place, limits=replace(SHORT, studies=1, study_instances=2))
        received.deliver(data[0][0])
        received.deliver(data[0][1])
        with pytest.raises(PacsOverCap):
            received.deliver(data[0][2])
        with pytest.raises(PacsOverCap, match="studies"):
            received.deliver(data[1][0])
        with pytest.raises(PacsAnswerInvalid):
            received.deliver(b"nothing")


def test_receiver_without_named_senders_is_refused():
    with pytest.raises(ValueError, match="AE titles"):
        StoreReceiver(
            "WARDROUND", ("127.0.0.1", 0), callers=[], limits=SHORT, deliver=lambda data: None, on_error=print
        )
    with pytest.raises(ValueError, match="AE title"):
        StoreReceiver(
            "WARDROUND", ("127.0.0.1", 0), callers=["A\\B"], limits=SHORT, deliver=lambda data: None, on_error=print
        )


@pytest.mark.orthanc
@needs_orthanc
def test_dcmtk_can_send_to_us(service, studies):
    process, port, folder = service
    paths = [str(path) for objects in studies.values() for path in objects.values()]
    subprocess.run(["echoscu", "-aet", "SENDER", "-aec", "WARDROUND", "127.0.0.1", str(port)], check=True, timeout=60)
    subprocess.run(
        [STORESCU, "-xi", "-aet", "SENDER", "-aec", "WARDROUND", "127.0.0.1", str(port), *paths],
        check=True,
        timeout=60,
        capture_output=True,
    )
    assert stop(process)["instances"] == 6
    assert {study: set(files) for study, files in pulled(folder).items()} == names(studies)
