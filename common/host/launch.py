"""The first thing a supervised process runs: tie its life to the supervisor's, then become the real command.

Run as a file, `python -I -S launch.py SUPERVISOR_PID COMMAND...`, and not as a `preexec_fn`, which is unsafe in a
process that has threads. It imports nothing of ours and starts in milliseconds.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, kill -9 included; end at once if it already has.

    The request survives `exec`, but not `fork`: each process asks for itself. The "parent" is the *thread* that forked.

    Args:
        parent: Process id of the parent.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def bound(command: Sequence[str]) -> list[str]:
    """The command line that starts `command` as a child for life of this process.

    The thread that starts it must live as long as the child is to live.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(arguments: list[str]) -> None:
    """Become the command in `arguments[1:]`, a child for life of the process `arguments[0]`."""
    die_with_parent(int(arguments[0]))
    os.execvp(arguments[1], arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
