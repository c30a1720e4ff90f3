"""Flower's SuperNode, started so that it is quick, survives its forwarder, and leaves before it joins.

There are six changes, each to one name of `flwr.supernode` in this process only.
`tests/client/test_daemon_supernode.py` fails if a new Flower lacks one of these names. None touches what is sent,
signed or checked.

pace      Flower sleeps 3 s between two looks for a message and 0.5 s between two looks for the reply. Here it sleeps a
          fiftieth of the time since the last message, 0.1 to 3 s, and 0.05 s for the reply, which costs no network.
patience  A TLS error makes Flower give up and a request may take 30 s. On loopback, towards our own forwarder, a TLS
          error means that it is being restarted, and a slow line is the forwarder's to judge.
leaving   A killed SuperNode stays "online" at the coordinator for a minute, in which it may not come back. The node id
          is kept, and the next start takes leave in its name first.
again     A piece whose receipt was lost on the way is sent again. The coordinator has it and says "not stored", on
          which Flower drops the whole answer, and the coordinator waits three minutes for it. Here the rest is sent.
leftover  A request that was taken up again may be answered twice, if its run was stopped while its answer was pushed.
          Flower would send the second answer in place of the next request's, which then waits for its deadline. Here
          it goes on until the request that it pulled is answered.
stuck     A request whose executor died at the wrong moment is never answered, and Flower waits for ever. When no task
          is left and no answer has come, this process leaves and is started again.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from flwr.common.constant import Status
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.daemon.home import DaemonHome, read_json
from common.host.files import PRIVATE, write_atomically

REQUEST_TIMEOUT_S = 300.0
_IDLE_S, _REPLY_S = 3, 0.5
"""The two pauses of Flower's own loop."""
_LEAST_S, _SHARE, _REPLY_LOOK_S = 0.1, 0.02, 0.05
_STUCK_LOOK_S = 5.0


class Pace:
    """Stands where `flwr.supernode.start_client_internal` has the module `time`."""

    def __init__(self) -> None:
        self._active = self._looked = time.monotonic()
        self._state: Any = None
        self._empty = False

    def sleep(self, seconds: float) -> None:
        """Sleep as the rule of this module says, where Flower asked for `seconds`."""
        now = time.monotonic()
        if seconds == _IDLE_S:
            time.sleep(min(_IDLE_S, max(_LEAST_S, _SHARE * (now - self._active))))
            return
        self._active = now
        if self._state is not None and now - self._looked > _STUCK_LOOK_S:
            self._looked = now
            self._leave_if_stuck()
        time.sleep(_REPLY_LOOK_S)

    def watching(self, push: Callable[..., None]) -> Callable[..., None]:
        """Wrap Flower's `_push_messages`, which waits for the reply: remember the state that it waits on."""

        def watched(*, state: Any, **others: Any) -> None:
            self._state, self._empty, self._looked = state, False, time.monotonic()
            try:
                push(state=state, **others)
                while _unanswered(state):  # what was sent answered a request of before
                    push(state=state, **others)
            finally:
                self._state, self._active = None, time.monotonic()

        return watched

    def _leave_if_stuck(self) -> None:
        """End, cleanly, when two looks in a row find no task that could still bring the reply."""
        empty = not any(task.status.status != Status.FINISHED for task in self._state.get_tasks())
        if empty and self._empty:
            raise SystemExit(1)
        self._empty = empty


def _unanswered(state: Any) -> bool:
    """Whether a request waits for its answer; Flower takes it out of its store with the answer."""
    with state.lock_msg_store:
        return any(not entry.message.metadata.reply_to_message_id for entry in state.msg_store.values())


def patient(make: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap Flower's maker of retriers, so that every failure of a connection on loopback is retried."""

    def made() -> Any:
        invoker = make()
        stock = invoker.should_giveup

        def should_giveup(error: Exception) -> bool:
            return False if isinstance(error, httpx.TransportError) else bool(stock(error))

        invoker.should_giveup = should_giveup
        return invoker

    return made


def again(make: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap Flower's maker of object pushers: a piece that the coordinator does not take holds back none of the others.

    An answer counts at the coordinator only when every piece of it is there, each named by the hash of its content.
    """

    def made(*arguments: Any, **others: Any) -> Callable[[str, bytes], None]:
        push = make(*arguments, **others)

        def pushed(object_id: str, content: bytes) -> None:
            with contextlib.suppress(ObjectPushError):
                push(object_id, content)

        return pushed

    return made


def leaving_first(connect: Callable[..., Any], kept: Path) -> Callable[..., Any]:
    """Wrap Flower's `http_request_response`: take leave for a killed predecessor, then remember one's own node id."""

    @contextlib.contextmanager
    def connected(address: str, insecure: bool, root: Any, keys: Any, *others: Any) -> Iterator[Any]:
        node = read_json(kept).get("node")
        if isinstance(node, int):
            _leave(address, root, keys, node)
        with connect(address, insecure, root, keys, *others) as connection:
            with contextlib.suppress(OSError):
                write_atomically(kept, json.dumps({"node": connection[0]}).encode(), mode=PRIVATE)
            yield connection

    return connected


def _leave(address: str, root: Any, keys: Any, node: int) -> None:
    """Say that `node` is gone, if the coordinator can be reached; it minds only where the node is still "online"."""
    interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(*keys)]
    with (
        contextlib.suppress(httpx.HTTPError, RuntimeError),
        FleetHttpClient.from_server_address(address, False, root, interceptors=interceptors) as client,
    ):
        client.DeactivateNode(DeactivateNodeRequest(node_id=node))


def adapt(home: DaemonHome) -> None:
    """Make the six changes."""
    pace = Pace()
    start_client_internal.time = pace
    start_client_internal._push_messages = pace.watching(start_client_internal._push_messages)
    start_client_internal.http_request_response = leaving_first(start_client_internal.http_request_response, home.node)
    fleet_http_connection.make_simple_http_retry_invoker = patient(fleet_http_connection.make_simple_http_retry_invoker)
    fleet_http_connection.make_push_object_fn_protobuf = again(fleet_http_connection.make_push_object_fn_protobuf)
    ProtobufClient.__init__.__kwdefaults__["timeout"] = REQUEST_TIMEOUT_S


def command_line(home: DaemonHome, *, forwarder_port: int, runtime_port: int) -> list[str]:
    """The arguments of `flower-supernode`: our forwarder as SuperLink, no executor of its own, loopback only.

    Args:
        home: The daemon's part of the site's home.
        forwarder_port: Loopback port of our forwarder.
        runtime_port: Loopback port on which the SuperNode serves its runner.
    """
    return [
        "flower-supernode",
        *("--superlink", f"127.0.0.1:{forwarder_port}"),
        *("--root-certificates", str(home.loopback / "ca.crt")),
        *("--auth-supernode-private-key", str(home.node_key)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(home.secret)),
        *("--host", "127.0.0.1"),
        *("--port", str(runtime_port)),
    ]


def main(arguments: list[str]) -> None:
    """Run for `HOME FORWARDER_PORT RUNTIME_PORT`."""
    home = DaemonHome(Path(arguments[0]))
    adapt(home)
    sys.argv = command_line(home, forwarder_port=int(arguments[1]), runtime_port=int(arguments[2]))
    status = 1
    try:
        flower_supernode()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(status)  # Flower's loop has ended, but its runtime interface would keep this process up for ever


if __name__ == "__main__":
    main(sys.argv[1:])
