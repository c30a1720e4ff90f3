"""Several decoder processes behind one iterator: feeds them, watches the clock, replaces the dead.

A process that dies, hangs or breaks the protocol costs the one file it was at. The files that waited behind it go to
its successor. Results come in any order; a caller that needs an order sorts.
"""

import selectors
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Self

from client.admission.reasons import Reason
from client.admission.scan import Job, Outcome
from client.admission.settings import IngestSettings
from client.decoder.process import BrokenProtocol, DecodeProcess, Limits, Picture
from common.errors import StateError

__all__ = ["DecodePool", "Limits", "OnPicture", "Picture"]

OnPicture = Callable[[int, Picture, float], None]

QUEUE = 3
"""Files a process holds at once, so that it never waits for the daemon."""
_MOST_FALSE_STARTS = 4


class DecodePool:
    """Decoder processes, started at once and killed on exit."""

    def __init__(
        self,
        settings: IngestSettings,
        *,
        scratch: Path,
        workers: int = 2,
        limits: Limits | None = None,
        ocr: bool = False,
    ) -> None:
        """Start the processes.

        Args:
            settings: The plan's settings.
            scratch: Folder for what a decoder has to put on disk for a moment.
            workers: Number of processes.
            limits: What one file may cost.
            ocr: Look for text in pictures that their header calls clean.
        """
        self._settings = settings
        self._scratch = scratch
        self._limits = limits or Limits()
        self._ocr = ocr
        self._selector = selectors.DefaultSelector()
        self._false_starts = 0
        self._processes: list[DecodeProcess] = []
        for _ in range(workers):
            self._processes.append(self._start())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        self._selector.close()

    def run(self, jobs: Iterable[Job], on_picture: OnPicture) -> Iterator[tuple[int, Outcome]]:
        """Decode files.

        Args:
            jobs: The files.
            on_picture: Called with number, picture [height, width] float32 in [-1, 1] and pixel aspect (height over
                width) for each frame, in order within a file. The picture is only valid during the call. Frames of a
                file that turns out to be refused have been passed as well; the outcome says so.

        Yields:
            Number and outcome of each file, in the order they finish.

        Raises:
            StateError: Processes do not start: the installation is broken, not a file.
        """
        waiting = deque(jobs)
        while waiting or any(process.jobs for process in self._processes):
            for process in self._processes:
                while waiting and len(process.jobs) < QUEUE:
                    process.give(waiting.popleft())
                process.flush()
            patience = min((process.seconds_left for process in self._processes if process.jobs), default=0.0)
            for key, _ in self._selector.select(timeout=max(0.0, patience)):
                yield from self._hear(key.data, waiting, on_picture)
            for process in [late for late in self._processes if late.jobs and late.seconds_left <= 0]:
                yield from self._replace(process, waiting, Reason.TIMED_OUT)

    def _start(self) -> DecodeProcess:
        process = DecodeProcess(self._settings, self._limits, ocr=self._ocr, scratch=self._scratch)
        self._selector.register(process.pipe, selectors.EVENT_READ, process)
        return process

    def _hear(
        self, process: DecodeProcess, waiting: deque[Job], on_picture: OnPicture
    ) -> Iterator[tuple[int, Outcome]]:
        try:
            for message in process.listen():
                process.answers_first(message)
                number = process.jobs[0].number
                if "slot" in message:
                    picture, aspect = process.picture(message)
                    on_picture(number, picture, aspect)
                    process.free(message)
                else:
                    yield number, process.finish(message)
        except BrokenProtocol:
            yield from self._replace(process, waiting, Reason.CRASHED)

    def _replace(self, process: DecodeProcess, waiting: deque[Job], reason: Reason) -> Iterator[tuple[int, Outcome]]:
        """Kill a process, blame the file it was at, and hand its queue to a new one."""
        self._selector.unregister(process.pipe)
        process.kill()
        self._false_starts = 0 if process.ready else self._false_starts + 1
        if self._false_starts >= _MOST_FALSE_STARTS:
            raise StateError("decoder processes do not start. Run `wardround doctor`, or look for a limit on memory")
        blamed = process.jobs.popleft() if process.ready and process.jobs else None
        waiting.extendleft(reversed(process.jobs))
        self._processes[self._processes.index(process)] = self._start()
        if blamed is not None:
            yield blamed.number, Outcome(reason=reason)
