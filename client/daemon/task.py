"""One request, in a process of its own: the installed client's answer to a message, as bytes.

Here the only code that a message can reach is run: `client.app` as it is installed at the hospital. The bundle that
came with the message is not here; it was dropped by the runner. Nor is anything that could send: no socket, no token.
"""

import contextlib
import resource
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.task_identity import TaskIdentity

from client.egress.refusals import refused
from common.host.processors import processors

_MIB = 1024 * 1024


def answer(body: bytes, header: dict[str, Any]) -> bytes:
    """Return the client's answer, serialised records.

    Args:
        body: The message, as Flower serialises it.
        header: "home", and the ids "task", "run" and "node".
    """
    import client.app

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = header["task"], header["run"], header["node"]
    message = message_from_proto(MessageProto.FromString(body))
    # The hospital's own configuration; of the run's, only what a hospital refuses is looked at (client.app).
    context = Context(
        run_id=header["run"],
        node_id=header["node"],
        state=RecordDict(),
        run_config=header["run_config"],
        node_config={"site-home": str(Path(header["home"]))},
    )
    try:
        reply: Message = client.app.app(message=message, context=context)
        content = reply.content
    except Exception:  # noqa: BLE001 - a message type that the app does not know; its text must not leave
        content = refused(Path(header["home"]), reason="MessageRefused").to_record()
    return bytes(recorddict_to_proto(content).SerializeToString())


def limit(header: dict[str, Any]) -> None:
    """Bound this process: no core dump (it would hold scans), processor time, memory where no GPU needs much of it.

    Args:
        header: "seconds", and "memory_mb" beyond what the program itself takes, 0 for no limit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = int(header["seconds"] * processors()) + 1
    with contextlib.suppress(ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    if header["memory_mb"] and not Path("/dev/nvidiactl").exists():
        most = data_bytes() + header["memory_mb"] * _MIB
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
