"""The top floor: one command line, simulation, importers and demo data put both sides together."""

import os

# Flower and Ray read these when they are imported; nothing of a study is told to anybody unless asked for.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
