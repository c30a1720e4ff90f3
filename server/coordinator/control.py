"""Speaking to our own SuperLink over its Control API: node keys, runs and their logs. Loopback only.

Flower's client for this is not part of its public interface; tests/server/test_coordinator_serve.py is the contract
test that fails when it changes.
"""

import contextlib
import hashlib
import importlib.resources
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from flwr.cli.build import build_fab_from_disk
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto import control_pb2
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from common.errors import StateError
from server.coordinator.home import Home

_LATEST_RUNS = 200
LOOPBACK = "127.0.0.1,localhost"
"""Never asked through a proxy, for any environment."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A node as the SuperLink knows it.

    Attributes:
        node_id: Its id.
        key: Public key, PEM.
        state: "registered", "online", "offline" or "unregistered".
    """

    node_id: int
    key: bytes
    state: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a study.

    Attributes:
        run_id: Flower's id.
        folder: The study's folder, as the run was told.
        state: "pending", "starting", "running", or "completed", "failed", "stopped" for one that has ended.
        details: Flower's words on how it ended.
        since: When it came into this state, ISO 8601; "" where Flower does not say.
    """

    run_id: int
    folder: Path
    state: str
    details: str
    since: str = ""

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.state in ("completed", "failed", "stopped")

    def to_dict(self) -> dict[str, Any]:
        """Return id, state, beginning of the state and details as plain JSON types."""
        return {"run": self.run_id, "state": self.state, "since": self.since, "details": self.details}


class SuperLink:
    """A connection to the SuperLink of a home; use it in a `with` block.

    Raises:
        StateError: From every method, when the SuperLink does not answer or refuses.
    """

    def __init__(self, home: Home) -> None:
        _without_proxy()
        self._client = ControlHttpClient.from_server_address(
            server_address=home.superlink,
            insecure=False,
            root_certificates=home.ca_certificate.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def nodes(self) -> list[Registered]:
        """Every node that is registered now."""
        with _answered():
            listed = self._client.ListNodes(control_pb2.ListNodesRequest()).nodes_info
        nodes = [Registered(node_id=n.node_id, key=bytes(n.public_key), state=str(n.status)) for n in listed]
        return [node for node in nodes if node.state != "unregistered"]

    def register(self, key: bytes, *, name: str) -> int:
        """Let a node in, by its public key (PEM); return its id."""
        with _answered():
            answer = self._client.RegisterNode(control_pb2.RegisterNodeRequest(public_key=key, name=name))
        return int(answer.node_id)

    def unregister(self, node_id: int) -> None:
        """Shut a node out; its key can never come back."""
        with _answered():
            self._client.UnregisterNode(control_pb2.UnregisterNodeRequest(node_id=node_id))

    def start(self, folder: Path) -> int:
        """Submit a run for the study in `folder`, as `flwr run deploy/flower_app` does; return its id."""
        bundle = build_fab_from_disk(flower_app())
        request = control_pb2.StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})),
            override_config=user_config_to_proto({"run-dir": str(folder)}),
        )
        with _answered():
            return int(self._client.StartRun(request).run_id)

    def stop(self, run_id: int) -> None:
        """End a run."""
        with _answered():
            self._client.StopRun(control_pb2.StopRunRequest(run_id=run_id))

    def runs(self) -> list[Run]:
        """The latest runs, newest first."""
        with _answered():
            listed = self._client.ListRuns(control_pb2.ListRunsRequest(limit=_LATEST_RUNS)).run_dict
        newest = sorted(listed.values(), key=lambda run: str(run.pending_at), reverse=True)
        return [_run(run) for run in newest]

    def log(self, run_id: int, *, follow: bool) -> Iterator[str]:
        """Pieces of a run's log; with `follow` until the run ends."""
        with _answered():
            for piece in self._client.StreamLogs(control_pb2.StreamLogsRequest(run_id=run_id)):
                yield str(piece.log_output)
                if not follow:
                    return


def _without_proxy() -> None:
    """Flower's client heeds the environment's proxy; a hospital's must not be asked for this machine's own ports."""
    known = os.environ.get("NO_PROXY", "").split(",")
    direct = ",".join(filter(None, [*known, *(host for host in LOOPBACK.split(",") if host not in known)]))
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = direct


def flower_app() -> Path:
    """The app that Flower carries: two shims, data of the floor above, read and never imported here."""
    return Path(str(importlib.resources.files("deploy"))) / "flower_app"


def _run(run: Any) -> Run:
    config = run.override_config
    folder = config["run-dir"].string if "run-dir" in config else ""
    state = run.status.sub_status if run.status.status == "finished" else run.status.status
    since = max(str(getattr(run, f"{name}_at", "")) for name in ("pending", "starting", "running", "finished"))
    return Run(
        run_id=int(run.run_id), folder=Path(folder), state=str(state), details=str(run.status.details), since=since
    )


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """Turn every way a call can fail into one error; Flower's client raises what its library raises."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise StateError(f"the SuperLink refused a request (status {error.response.status_code})") from error
    except httpx.HTTPError as error:
        raise StateError(
            f"the SuperLink does not answer ({type(error).__name__}). Is `wardround server serve` running?"
        ) from error
