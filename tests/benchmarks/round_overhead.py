"""What a round costs beyond the hospitals' computing: this deployment beside stock Flower, in one run.

    python -m tests.benchmarks.round_overhead [--rounds 6]

Three sites and a model of 2 MB on both sides, everything on loopback of this machine. Ours is the whole deployment of
`deploy.install.lab`: mutual TLS twice, node authentication, gateway, forwarders, runners, ledgers, checkpoints. Stock
is `flower-superlink`, three `flower-supernode` and a FedAvg whose clients return what they were sent, without TLS. The
two take turns, half the rounds each, so that both meet the same machine.

Printed: medians of the rounds, and where ours go, from the daemons' own logs. "computing" is the longest time that a
site's request ran in its own process (booking, one tiny step, storing included); the rest is overhead.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.install.lab import PLAN, Lab, Party
from server.coordinator.home import free_ports
from server.study.study import Study

MODEL = (
    PLAN.replace("local_steps = 3", "local_steps = 1").replace("sample_rate = 0.2", "sample_rate = 0.01")
    .replace("latent = 4", "latent = 16").replace("channels = [4, 8]", "channels = [32, 148]")
    .replace("images_per_label = 4", "images_per_label = 1").replace("epsilon = 8.0", "epsilon = 2.0")
)  # fmt: skip
STOCK_PROJECT = """
[project]
name = "stock"
version = "0.1.0"
description = "FedAvg that moves a model and trains nothing"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "nobody"
fab-include = ["stockapp/*.py"]
[tool.flwr.app.components]
serverapp = "stockapp.server_app:app"
clientapp = "stockapp.client_app:app"
[tool.flwr.app.config]
rounds = 3
out = ""
"""
STOCK_SERVER = """
import time
import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()

@app.main()
def main(grid: Grid, context: Context) -> None:
    def note(_round, _arrays):
        with open(context.run_config["out"], "a") as file:
            file.write(f"{time.time()}\\n")
        return MetricRecord({"x": 0.0})
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=3, min_train_nodes=3)
    arrays = ArrayRecord([np.zeros((1000, 50), np.float32) for _ in range(10)])
    strategy.start(grid, arrays, num_rounds=int(context.run_config["rounds"]), evaluate_fn=note)
"""
STOCK_CLIENT = """
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()

@app.train()
def train(message, context):
    return Message(RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}),
                   reply_to=message)
"""


class Stock:
    """Flower as it comes: SuperLink and three SuperNodes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "app" / "stockapp").mkdir(parents=True)
        (folder / "app" / "pyproject.toml").write_text(STOCK_PROJECT)
        (folder / "app" / "stockapp" / "__init__.py").write_text("")
        (folder / "app" / "stockapp" / "server_app.py").write_text(STOCK_SERVER)
        (folder / "app" / "stockapp" / "client_app.py").write_text(STOCK_CLIENT)
        self.port, *self.node_ports = free_ports(4)
        (folder / "flwr").mkdir()
        (folder / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "stock"\n[superlink.stock]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )
        self.bin = Path(sys.executable).parent
        self.environment = {
            **os.environ, "FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1", "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        self.runs = 0

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        link = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(self.port), "--database",
                str(self.folder / "state.db")]  # fmt: skip
        nodes = [
            ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}", "--host", "127.0.0.1",
             "--port", str(port)]
            for port in self.node_ports
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log, contextlib.ExitStack() as started:
            for command in (link, *nodes):
                process = subprocess.Popen(
                    [str(self.bin / command[0]), *command[1:]],
                    env=self.environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
                started.callback(end, process)
                time.sleep(3)
            yield

    def rounds(self, count: int) -> list[float]:
        """Seconds of each of `count` rounds."""
        self.runs += 1
        out = self.folder / f"times-{self.runs}"
        subprocess.run(
            [self.bin / "flwr", "run", self.folder / "app", "stock", "--run-config", f'rounds={count} out="{out}"'],
            env=self.environment, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        limit = time.monotonic() + 60 + 60 * count
        while not out.exists() or len(stamps := out.read_text().split()) < count + 1:
            if time.monotonic() > limit:
                raise SystemExit(f"stock Flower did not finish; see {self.folder / 'log'}")
            time.sleep(0.5)
        times = [float(stamp) for stamp in stamps]
        return [after - before for before, after in itertools.pairwise(times)]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its own session, by its id."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def study(lab: Lab, name: str, count: int) -> Study:
    """Run one of our studies and return it."""
    plan = lab.folder / f"{name}.toml"
    plan.write_text(MODEL.replace('"lab"', f'"{name}"').replace("rounds = 3", f"rounds = {count}"))
    for site in lab.sites:
        site.wardround("site", "approve", plan, "--home", site.home, "--by", "benchmark", "--yes")
    lab.coordinator.wardround("server", "start", plan, "--home", lab.coordinator.home)
    folder = lab.coordinator.home / "studies" / name
    lab.wait("the study is released", (folder / "card.json").exists, patience_s=600)
    return Study.resume(folder)


def times_of(site: Party, event: str) -> list[float]:
    """The seconds that a site's runner noted in its log, in order."""
    lines = [json.loads(line) for line in (site.home / "logs" / "runner.jsonl").read_text().splitlines()]
    return [float(line["fields"][-1]) for line in lines if line.get("event", "").startswith(event)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    half = max(2, parser.parse_args().rounds // 2)
    with tempfile.TemporaryDirectory(prefix="overhead-") as scratch:
        stock = Stock(Path(scratch) / "stock")
        lab = Lab.build(Path(scratch) / "lab", plan=MODEL)
        studies, stock_rounds = [], []
        try:
            with stock.up():
                lab.up()
                for turn in (1, 2):
                    studies.append(study(lab, f"turn-{turn}", half))
                    stock_rounds += stock.rounds(half)
        finally:
            left = lab.down()
        rounds = [record.seconds for done in studies for record in done.records]
        size = sum(array.nbytes for array in studies[0].weights.values())
        asked = len(rounds) + len(studies)  # one greeting a study
        computing = [times_of(site, "request ")[-asked:] for site in lab.sites]
        answering = [times_of(site, "task answered")[-asked:] for site in lab.sites]
    train = [number for number in range(asked) if number % (half + 1)]
    slowest = [max(site[number] for site in computing) for number in train]
    answered = [max(site[number] for site in answering) for number in train]
    median = statistics.median
    overhead = [whole - child for whole, child in zip(rounds, slowest, strict=True)]
    print(f"model {size / 1e6:.2f} MB, 3 sites, {len(rounds)} rounds each, medians in seconds")
    print(f"stock Flower, a round of nothing            {median(stock_rounds):6.2f}")
    print(f"ours, a whole round                         {median(rounds):6.2f}")
    print(f"  computing in the slowest site's process   {median(slowest):6.2f}")
    print(f"  runner around it                          {median(answered) - median(slowest):6.2f}")
    print(f"  the way there and back, join and save     {median(rounds) - median(answered):6.2f}")
    print(f"ours, overhead beyond computing             {median(overhead):6.2f}")
    print(f"ratio of stock's round to our overhead      {median(stock_rounds) / median(overhead):6.2f}")
    print(f"processes left behind                       {len(left):6d}")


if __name__ == "__main__":
    main()
