"""What one mutation is: a guard, the text that holds it, the text that takes it out, the tests that must notice."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One guard taken out.

    Attributes:
        name: The guard and what becomes of it.
        file: The source file that holds it.
        old: Its text inside `at`, once. White space and line breaks do not count.
        new: What stands there instead.
        tests: The tests that are run, as pytest takes them.
        at: The innermost function, class or constant that holds the text, as a dotted name; empty for a text outside.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    at: str = ""


def guard(name: str, file: str, old: str, new: str, tests: tuple[str, ...], *, at: str = "") -> Mutation:
    """A mutation in one breath; arguments as the attributes of `Mutation`."""
    return Mutation(name=name, file=file, old=old, new=new, tests=tests, at=at)


TRAINER, AUDIT, MOMENTS = "tests/client/test_trainer.py", "tests/client/test_audit.py", "tests/client/test_moments.py"
GRADIENTS, APART = "tests/client/test_gradients.py", "tests/client/test_apart.py"
HOSPITAL, EGRESS, APP = "tests/client/test_hospital.py", "tests/client/test_egress.py", "tests/client/test_app.py"
POLICY, APPROVAL = "tests/client/test_policy.py", "tests/client/test_approval.py"
CRASH, NOISE_KEY = "tests/client/test_crash.py", "tests/client/test_noise_key.py"
LEDGER, STORE = "tests/client/test_ledger.py", "tests/client/test_ledger_store.py"
SERVER, WEIGHTS = "tests/client/test_hostile_server.py", "tests/client/test_hostile_weights.py"
MESSAGES, PRIVACY, RANDOM = (
    "tests/common/test_messages.py",
    "tests/common/test_privacy.py",
    "tests/client/test_randomness.py",
)
