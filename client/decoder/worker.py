"""The process that touches hostile bytes: reads one file after another, hands pictures over through shared memory.

Started by `client.decoder.pool` with a memory limit, without torch, without the site's secrets. Speaks JSON
lines: jobs and freed slots come in on stdin, frames and outcomes go out on stdout. No pickle: a process that a hostile
file has taken over can say nothing that the daemon would execute.
"""

import argparse
import hashlib
import json
import mmap
import os
import resource
import signal
import sys
import warnings
from collections import deque
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pydicom
from numpy.typing import NDArray

from client.admission.reasons import QUARANTINE, Reason
from client.admission.scan import Facts, Job
from client.admission.settings import IngestSettings
from client.dicom import reader
from client.dicom.pixel_data import MAX_FRAME_PIXELS, check_pixels, decoded_frames
from client.dicom.pixels import render
from client.dicom.provenance import provenance_of
from client.dicom.rendering import grey_plane, only_regions, rendering_of
from client.dicom.screening import screen, screen_type
from client.dicom.text_finder import TextFinder
from client.dicom.units import check_unit
from common.errors import ScanRefused

SLOTS = 2
"""Pictures that may wait for the daemon at once; one is decoded while another is resized."""
SLOT_BYTES = MAX_FRAME_PIXELS * 4
_RECURSION_LIMIT = 400
"""Calls; sequences nested some 60 deep reach it, real objects stay below 8."""
_LARGEST_FILE = 1 << 31
_GRACE_SECONDS = 30.0


class Outlet:
    """Where pictures and outcomes leave the process."""

    def __init__(self, memory: mmap.mmap, inlet: TextIO, outlet: TextIO) -> None:
        self._memory = memory
        self._inlet = inlet
        self._outlet = outlet
        self._free = deque(range(SLOTS))
        self._jobs: deque[Job] = deque()
        self.seconds = 0.0

    def arm(self) -> None:
        """End this process, unless it is armed again, `seconds` and a grace from now.

        The daemon kills a late process; this ends one whose daemon is dead. Unhandled, so it works inside C code.
        """
        signal.setitimer(signal.ITIMER_REAL, self.seconds + _GRACE_SECONDS)

    def next_job(self) -> Job | None:
        """Wait for a file to read; None when the daemon has closed the pipe."""
        while not self._jobs:
            if not self._listen():
                return None
        return self._jobs.popleft()

    def hand_over(self, job: int, picture: NDArray[np.float32], *, aspect: float) -> None:
        """Put one picture into a free slot, waiting for one where none is.

        Args:
            job: Number of the job that the picture is of.
            picture: [height, width] in [-1, 1].
            aspect: Height of a pixel over its width.
        """
        while not self._free:
            if not self._listen():
                raise SystemExit
        slot = self._free.popleft()
        height, width = picture.shape
        view = np.frombuffer(self._memory, np.float32, height * width, slot * SLOT_BYTES).reshape(height, width)
        view[...] = picture
        message = {"job": job, "slot": slot, "height": height, "width": width, "aspect": aspect}
        self.say(message, now=not self._free)

    def say(self, message: dict[str, Any], *, now: bool = True) -> None:
        """Send one line, at once or with the next; each sending wakes the daemon."""
        self._outlet.write(json.dumps(message) + "\n")
        if now:
            self._outlet.flush()

    def _listen(self) -> bool:
        line = self._inlet.readline()
        if not line:
            return False
        message = json.loads(line)
        if "free" in message:
            self._free.append(message["free"])
        else:
            self._jobs.append(Job(number=message["job"], path=Path(message["path"]), cleared=message["cleared"]))
        return True


class Decoder:
    """Reads files by one plan's settings."""

    def __init__(self, settings: IngestSettings, outlet: Outlet, *, ocr: bool) -> None:
        self._settings = settings
        self._outlet = outlet
        self._finder = TextFinder() if ocr else None

    def decode(self, job: Job) -> dict[str, Any]:
        """Read one file, hand its pictures over, and return the outcome as a message."""
        facts: Facts | None = None
        data = b""
        reason: Reason | None = None
        try:
            data = reader.read_file(job.path)
            header = reader.parse_header(data, label_attribute=self._settings.label_attribute)
            facts = reader.facts_of(header, label_attribute=self._settings.label_attribute)
            cleared = bool(job.cleared) and hashlib.sha256(data).hexdigest() == job.cleared
            self._admit(job, header, facts, cleared=cleared)
        except ScanRefused as refusal:
            reason = Reason(refusal.reason)
        except MemoryError:
            reason = Reason.ABSURD_SIZE
        except RecursionError:
            reason = Reason.TOO_DEEP
        except OSError:
            reason = Reason.UNREADABLE
        except Exception:  # noqa: BLE001  hostile values surface wherever they are first used
            reason = Reason.MALFORMED
        digest = hashlib.sha256(data).hexdigest() if reason is None or reason in QUARANTINE else ""
        return {"job": job.number, "reason": reason, "facts": facts and facts.to_dict(), "digest": digest}

    def _admit(self, job: Job, header: reader.Header, facts: Facts, *, cleared: bool) -> None:
        """Check the header, then decode, render and hand over every frame.

        Frames without content are left out; a file without any other is refused.
        """
        provenance = provenance_of(header.dataset)
        if header.keyword or facts.sop_class:
            screen_type(facts, provenance)
        if not header.keyword:
            raise ScanRefused(Reason.NO_PIXELS)
        screen(facts, provenance, self._settings, cleared=cleared)
        check_unit(header.dataset, facts.frames, self._settings.window)
        check_pixels(header, facts)
        finder = None if cleared else self._finder
        kept = 0
        for number, frame in enumerate(decoded_frames(header, facts)):
            plane, full_scale = grey_plane(frame, header.dataset)
            rendering = rendering_of(
                header.dataset, number, photometric=frame.photometric, full_scale=full_scale, lossy=frame.lossy
            )
            try:
                picture = render(only_regions(plane, header.dataset), rendering, self._settings.window)
            except ScanRefused:
                continue
            if finder is not None and finder.finds_text(picture, modality=facts.modality):
                raise ScanRefused(Reason.TEXT_FOUND)
            if finder is not None:
                self._outlet.arm()
            aspect = 1 / rendering.aspect if rendering.transpose else rendering.aspect
            self._outlet.hand_over(job.number, picture, aspect=aspect)
            kept += 1
        if not kept:
            raise ScanRefused(Reason.CONSTANT_IMAGE)


def _limit(memory_bytes: int) -> None:
    """Cap what this process may take: address space, core files, size of a file, depth of calls."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    sys.setrecursionlimit(_RECURSION_LIMIT)


def main() -> None:
    """Serve jobs until the daemon closes the pipe or dies."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory-fd", type=int, required=True)
    parser.add_argument("--memory-limit", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--ocr", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # we check what we use
    outlet = Outlet(mmap.mmap(options.memory_fd, SLOTS * SLOT_BYTES), sys.stdin, _own_stdout())
    outlet.seconds = options.seconds
    decoder = Decoder(IngestSettings.from_dict(json.loads(options.settings)), outlet, ocr=options.ocr)
    _limit(options.memory_limit)
    outlet.say({"ready": True})
    while (job := outlet.next_job()) is not None:
        outlet.arm()
        outlet.say(decoder.decode(job))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _own_stdout() -> TextIO:
    """Keep the pipe for the protocol; the output of C libraries is discarded."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    return pipe
