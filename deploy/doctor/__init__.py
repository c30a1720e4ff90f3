"""`wardround doctor`: what is wrong with this installation, and how to put it right."""

from deploy.doctor.examine import run_checks
from deploy.doctor.finding import Finding

__all__ = ["Finding", "run_checks"]
