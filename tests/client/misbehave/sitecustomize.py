"""Makes the installed client misbehave on demand, in the process that answers requests and nowhere else.

With this folder on PYTHONPATH, that process does what the file `misbehave` in the site's home says, before each answer.
"""

import sys
from pathlib import Path
from typing import Any

if "client.daemon.zygote" in sys.orig_argv:
    import os
    import time

    from client import hospital

    def hoard() -> None:
        kept = []
        while True:
            kept.append(os.urandom(4 * 1024**2))

    def draw(path: Path) -> None:
        """Add what the global generators of this process give next."""
        import random

        import numpy as np
        import torch

        drawn = [random.random(), float(np.random.rand()), float(torch.rand(1))]  # noqa: NPY002
        with path.open("a") as file:
            file.write(f"{drawn}\n")

    def misbehave(site: Any) -> None:
        path = Path(site.home) / "misbehave"
        wish = path.read_text() if path.exists() else ""
        if wish == "memory at once":
            bytearray(6 * 1024**3)
        if wish == "memory by and by":
            hoard()
        if wish == "time":
            time.sleep(600)
        if wish == "processor time":
            while True:
                pass
        if wish == "crash":
            os.abort()
        if wish == "exit":
            os._exit(0)
        if wish == "draw":
            draw(Path(site.home) / "drawn")
        if wish == "name":
            print("on stdout: DOE^JANE")
            sys.stderr.write("on stderr: /scans/DOE^JANE/1.dcm\n")
            raise ValueError("DOE^JANE 1970-01-01 in /scans/DOE^JANE/1.dcm")

    greet, train = hospital.greet, hospital.train

    def greeting(site: Any, request: Any) -> Any:
        misbehave(site)
        return greet(site, request)

    def training(site: Any, request: Any) -> Any:
        misbehave(site)
        return train(site, request)

    hospital.greet, hospital.train = greeting, training
