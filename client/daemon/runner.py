"""The hospital's executor: takes every task of its SuperNode, and lets the installed client answer it.

Flower's own executor would unpack the bundle (FAB) of a run and import it. Here the bundle is dropped unread. The
message goes to a child process, which runs the client as it is installed (`client.daemon.task`). The child's answer is
passed on only in one of the four forms that a hospital answers in. Everything else is answered as a refusal by type: a
task of another kind, a child that crashed or ran out of memory or time, an answer of unknown form. A SuperNode without
an answer would wait for ever. Each answer has its line in the egress log before it is pushed. The child writes its own;
the line of a refusal that is made here is written here.

A request under way lies in `daemon/task/`. A killed runner resumes it under its old token, within the half minute that
Flower keeps it. The ledger and the spool prevent a second cost.
"""

import json
import logging
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.daemon.home import DaemonHome
from client.daemon.zygote_handle import ZygoteHandle
from client.egress.refusals import refused
from client.site.rules import SitePolicy
from common.errors import MessageRefused, StateError, WardroundError
from common.host import logs
from common.host.files import PRIVATE, write_atomically
from common.host.rate import Rate
from common.wire.messages import AboutReply, HelloReply, TrainReply, Verdict, pack, read_reply
from common.wire.secure_messages import ConfirmReply, KeyReply, RevealReply

log = logging.getLogger(__name__)

POLL_S = 0.1
"""Pause between two looks for a task; a look costs a few milliseconds on loopback."""
GREETINGS, GREETINGS_PER_S = 30.0, 1 / 60
"""How many greetings are answered at once, and how many a second in the long run. A study asks once a run, and again
when a node has come back; each answer costs a process and a line of the egress log, so more have to wait.
"""
HEARTBEAT_S = 10.0
"""Flower drops a task after 30 s without one."""
_ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})
_TRIES = 3
_REFUSALS = {"memory": "LimitExceeded", "time": "LimitExceeded", "crashed": "StateError"}


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task that was taken: Flower's token for it, its ids, and how often it was begun."""

    token: str
    type: str
    task: int
    run: int
    node: int
    run_config: dict[str, Any]
    tries: int = 1


class Runner:
    """Takes tasks one after the other.

    Args:
        home: The site's home.
        port: The SuperNode's runtime port on loopback.
    """

    def __init__(self, home: DaemonHome, port: int) -> None:
        self._home, self._address = home, f"127.0.0.1:{port}"
        self._zygote = ZygoteHandle()
        self._greetings = Rate(burst=GREETINGS, per_s=GREETINGS_PER_S)
        self._acquirer = _client(
            self._address,
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=home.secret.read_bytes(), protected_methods=_ACQUIRE),
        )

    def run(self, ended: Event) -> None:
        """Take and answer tasks until `ended` is set."""
        self._zygote.start()
        self._take_up_again()
        while not ended.is_set():
            try:
                worked = self._take_one()
            except httpx.HTTPError as error:
                log.info("the SuperNode does not answer: %s", error)
                worked = False
                ended.wait(0.4)
            if not worked:
                self._zygote.start()
                ended.wait(POLL_S)
        self._zygote.stop()

    def _take_one(self) -> bool:
        """Take a task, if there is one, and answer it; return whether there was one."""
        taken = self._acquirer.AcquireTask(
            AcquireTaskRequest(supported_task_types=_every_type(), agentapp_fab_hashes=set())
        )
        if not taken.HasField("task") or not taken.token:
            return False
        client = self._client_of(taken.token)
        try:
            message, context, _, _ = pull_task_input(client)  # the run and its bundle: dropped here, unread
        except Exception as error:  # noqa: BLE001 - what a hostile server may make of a message has no end
            log.warning("a task could not be read: %s", error)
            said = refused(self._home.home, reason="MessageRefused")
            push_task_output(client, None, SubStatus.FAILED, said.reason)
            return True
        task = Task(
            token=taken.token,
            type=taken.task.type,
            task=taken.task.task_id,
            run=context.run_id,
            node=context.node_id,
            run_config=dict(context.run_config),
        )
        body = message_to_proto(message).SerializeToString()
        _keep(self._home.task, task, body)
        self._answer(client, task, message, body)
        return True

    def _take_up_again(self) -> None:
        """Answer the task that a killed runner left, if Flower still keeps it."""
        kept = _kept(self._home.task)
        if kept is None:
            return
        task, body = kept
        client = self._client_of(task.token)
        try:
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task.task, task.run, task.node
            if client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                log.info("a request is taken up again")
                _keep(self._home.task, task, body)
                self._answer(client, task, message_from_proto(MessageProto.FromString(body)), body)
        except httpx.HTTPError:
            log.info("a request was given up by the SuperNode in the meantime")
        _forget(self._home.task)

    def _answer(self, client: RuntimeHttpClient, task: Task, message: Message, body: bytes) -> None:
        began = time.monotonic()
        with _Heartbeat(client):
            self._pace(message)
            content = self._content(task, body)
            context = Context(run_id=task.run, node_id=task.node, node_config={}, state=RecordDict(), run_config={})
            push_message(client, Message(content, reply_to=message), context)
            push_task_output(client, None, SubStatus.COMPLETED, "")
        _forget(self._home.task)
        client.close()
        log.info("task answered in %.2f s", time.monotonic() - began)

    def _pace(self, message: Message) -> None:
        """Have a greeting wait for its turn."""
        if message.metadata.message_type.partition(".")[0] == MessageType.QUERY:
            time.sleep(self._greetings.take())

    def _content(self, task: Task, body: bytes) -> RecordDict:
        """The records to answer with: the client's, if it has one of the forms that may leave, else a refusal."""
        try:
            policy = SitePolicy.load(self._home.home)
        except StateError as error:
            log.warning("site.toml cannot be used: %s", error)
            return self._refused("", "StateError")
        if task.type != TaskType.CLIENT_APP:
            log.warning("a task of another kind than a client's is refused")
            return self._refused(policy.name, "MessageRefused")
        if task.tries > _TRIES:
            log.warning("a request that ended this process %d times is refused", _TRIES)
            return self._refused(policy.name, "StateError")
        header = {
            "home": str(self._home.home),
            "task": task.task,
            "run": task.run,
            "node": task.node,
            "run_config": task.run_config,
            "memory_mb": policy.resources.memory_mb,
            "seconds": policy.resources.task_minutes * 60,
        }
        state, answer = self._zygote.answer(header, body)
        if state == "crashed":  # once more: what was booked is taken up again, and costs nothing
            state, answer = self._zygote.answer(header, body)
        if state != "done":
            log.warning("the request is refused: %s", state)
            return self._refused(policy.name, _REFUSALS.get(state, "StateError"))
        return checked(answer, self._home.home, policy.name)

    def _refused(self, site: str, reason: str) -> RecordDict:
        return refused(self._home.home, reason=reason, site=site).to_record()

    def _client_of(self, token: str) -> RuntimeHttpClient:
        return _client(
            self._address,
            RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"),
            RuntimeTokenHttpInterceptor(token),
        )


FORMS = (HelloReply, AboutReply, TrainReply, Verdict, KeyReply, ConfirmReply, RevealReply)
"""Every answer that may leave, refusals aside."""


def checked(answer: bytes, home: Path, site: str) -> RecordDict:
    """Return a child's answer if it is a refusal, a greeting, a sealed reply or a verdict; else a refusal instead.

    An answer of these forms that the child made is in the egress log of `home` already. So is a refusal made here.

    Args:
        answer: The child's answer, as bytes.
        home: The site's home folder.
        site: The site's name.
    """
    try:
        content = recorddict_from_proto(RecordDictProto.FromString(answer))
        if any(_has_form(content, form) for form in FORMS):
            return pack(content)
    except Exception as error:  # noqa: BLE001 - bytes that are no records at all
        log.warning("the client's answer cannot be read: %s", error)
    log.warning("the client's answer has none of the forms that may leave")
    return refused(home, reason="EgressRefused", site=site).to_record()


def _has_form(content: RecordDict, form: Any) -> bool:
    """Whether the records are a refusal or of this form."""
    try:
        read_reply(content, form)
    except MessageRefused:
        return False
    return True


class _Heartbeat:
    """Tells the SuperNode that a task is worked on. A beat that fails is left out: the next one may do."""

    def __init__(self, client: RuntimeHttpClient) -> None:
        self._client, self._ended = client, Event()
        self._thread = Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except httpx.HTTPError as error:
                log.info("a heartbeat failed: %s", error)


def _every_type() -> set[str]:
    """Every kind of task Flower knows: what is not a client's is taken to be refused."""
    return {str(kind) for kind in TaskType}


def _client(address: str, *interceptors: Any) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address, insecure=True, root_certificates=None, interceptors=list(interceptors)
    )


def _keep(folder: Path, task: Task, body: bytes) -> None:
    """Write down a task before it is begun, its message first; a disk that refuses costs only the taking up again."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        message = folder / f"{task.task}.message"
        if not message.exists():
            write_atomically(message, body, mode=PRIVATE)
        write_atomically(folder / "task.json", json.dumps(asdict(task)).encode(), mode=PRIVATE)
    except OSError as error:
        log.warning("the request could not be written down: %s", error)


def _kept(folder: Path) -> tuple[Task, bytes] | None:
    try:
        task = Task(**json.loads((folder / "task.json").read_text(encoding="utf-8")))
        body = (folder / f"{task.task}.message").read_bytes()
    except (OSError, ValueError, TypeError):
        _forget(folder)
        return None
    return Task(**{**asdict(task), "tries": task.tries + 1}), body


def _forget(folder: Path) -> None:
    for path in (folder / "task.json", *folder.glob("*.message")):
        path.unlink(missing_ok=True)


def main(arguments: list[str]) -> None:
    """Run for `HOME PORT` until killed or told to end."""
    logs.set_up_child()
    runner = Runner(DaemonHome(Path(arguments[0])), int(arguments[1]))
    runner.run(Event())


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except WardroundError as trouble:
        log.critical("cannot start: %s", trouble)
        sys.exit(trouble.exit_code)
