"""Guards of what studies come to together: versions, deltas and what is owed; how to take each out."""

from mutation import POLICY, Mutation

_OUTLOOK = ("tests/client/test_outlook.py",)


def _guard(name: str, file: str, old: str, new: str, *, tests: tuple[str, ...] = _OUTLOOK) -> Mutation:
    return Mutation(name=name, file=file, old=old, new=new, tests=tests)


OUTLOOK = [
    _guard("study: each version begins at nothing spent", "client/policy.py",
           "study=epsilon([*booked.events(study=plan.name), *extra]",
           "study=epsilon([*booked.events(plan=plan.digest), *extra]"),
    _guard("study: a version of a larger delta reads less", "client/policy.py",
           "named = smallest_delta(home, plan, booked.plans(study=plan.name))", "named = plan.privacy.delta"),
    _guard("study: the site's limit on one study is not asked", "client/policy.py",
           '    _within(plan, "study", spent.study, after.study, limits.max_epsilon_per_study, cure=cure)\n', "",
           tests=(POLICY,)),
    _guard("study: the plan's own epsilon is no limit", "client/policy.py",
           '    _within(plan, "plan", spent.plan, after.plan,', '    _within(plan, "plan", 0.0, 0.0,', tests=(POLICY,)),
    _guard("delta: a plan that trained and was left is forgotten", "client/policy.py",
           "whole = smallest_delta(home, plan, booked.plans())", "whole = plan.privacy.delta"),
    _guard("delta: a plan that never trained counts", "client/approval.py",
           "sorted(set(others).difference(asks))", 'sorted({p.parent.name for p in home.glob("approved/*/*.json")})'),
    _guard("approval: what other studies have yet to cost is not weighed", "client/proposal.py",
           "        if not over_budget:", "        if False:"),
    _guard("approval: a paused study owes nothing", "client/outlook.py",
           'if approval.state != "left" and', 'if approval.state == "active" and'),
    _guard("approval: a verdict is not owed", "client/outlook.py",
           "        missing.append((verdict,))", "        pass"),
    _guard("approval: others are weighed at the new plan's delta alone", "client/outlook.py",
           "min([delta, *(other.plan.privacy.delta for other in counted)])", "delta"),
    _guard("approval: earlier versions of the study do not count", "client/proposal.py",
           "        if self.study.after > most:", "        if False:"),
]  # fmt: skip
