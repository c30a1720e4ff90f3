"""Guards of what studies come to together: versions, deltas and what is owed; how to take each out."""

from mutation import POLICY, guard


def _test(name: str) -> tuple[str, ...]:
    return (f"tests/client/test_outlook.py::test_{name}",)


OUTLOOK = [
    guard("study: each version begins at nothing spent", "client/site/policy.py",
          "study=epsilon([*booked.events(study=plan.name), *extra]",
          "study=epsilon([*booked.events(plan=plan.digest), *extra]",
          tests=_test("versions_of_one_study_add_up_in_rounds_in_proposals_and_in_the_account"), at="Spent.of"),
    guard("study: a version of a larger delta reads less", "client/site/policy.py",
          "named = smallest_delta(home, plan, booked.plans(study=plan.name))", "named = plan.privacy.delta",
          tests=_test("a_version_with_a_larger_delta_does_not_make_its_study_read_less"), at="Spent.of"),
    guard("study: the site's limit on one study is not asked", "client/site/policy.py",
          '    _within(plan, "study", spent.study, after.study, limits.max_epsilon_per_study, cure=cure)\n', "",
          tests=(POLICY,), at="permit"),
    guard("study: the plan's own epsilon is no limit", "client/site/policy.py",
          '    _within(plan, "plan", spent.plan, after.plan,', '    _within(plan, "plan", 0.0, 0.0,', tests=(POLICY,),
          at="permit"),
    guard("delta: a plan that trained and was left is forgotten", "client/site/policy.py",
          "whole = smallest_delta(home, plan, booked.plans())", "whole = plan.privacy.delta",
          tests=_test("a_plan_that_trained_and_was_left_counts_at_its_delta_for_good"), at="Spent.of"),
    guard("delta: a plan that never trained counts", "client/approval/approvals.py",
          "sorted(set(others).difference(asks))", 'sorted({p.parent.name for p in home.glob("approved/*/*.json")})',
          tests=_test("a_plan_that_never_trained_makes_no_other_read_more"), at="smallest_delta"),
    guard("approval: what other studies have yet to cost is not weighed", "client/approval/proposal.py",
          "        if not over_budget:", "        if False:",
          tests=_test("a_plan_that_leaves_a_running_study_no_room_is_refused_unless_the_steward_says_so"),
          at="Proposal.weigh"),
    guard("approval: a paused study owes nothing", "client/approval/outlook.py",
          'if approval.state != "left" and', 'if approval.state == "active" and',
          tests=_test("what_is_owed_is_by_whoever_may_still_run"), at="others"),
    guard("approval: a verdict is not owed", "client/approval/outlook.py",
          "        missing.append(((verdict,), 1.0))", "        pass",
          tests=_test("a_study_that_is_done_owes_nothing_and_a_verdict_is_owed_until_it_is_booked"), at="owed"),
    guard("approval: others are weighed at the new plan's delta alone", "client/approval/outlook.py",
          "min([delta, *(other.plan.privacy.delta for other in counted)])", "delta",
          tests=_test("a_plan_offered_after_one_of_a_smaller_delta_is_weighed_at_that"), at="Outlook.of"),
    guard("approval: earlier versions of the study do not count", "client/approval/proposal.py",
          "        if self.study.after > most:", "        if False:",
          tests=_test("versions_of_one_study_add_up_in_rounds_in_proposals_and_in_the_account"),
          at="Proposal._refuse_too_much"),
]  # fmt: skip
