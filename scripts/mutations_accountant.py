"""The guards of the accountant: what keeps epsilon an upper bound, the same everywhere, and found in bounded time."""

from mutation import PRIVACY, Mutation

SCHEDULE = "tests/common/test_schedule.py"
_SUM = "    return min(bound, _by_losses(steps, delta * (1 - STATED_SHARE)) + STATED_ERROR)"

ACCOUNTANT = [
    Mutation(
        name="accountant: epsilon is understated by 3 %",
        file="common/accountant/accounting.py",
        at="_epsilon",
        old=_SUM,
        new=_SUM.replace("return ", "return 0.97 * "),
        tests=(PRIVACY + "::test_epsilon_agrees_with_google_on_the_published_table_and_is_never_below_it",),
    ),
    Mutation(
        name="accountant: a mechanism without noise is free",
        file="common/accountant/accounting.py",
        at="_epsilon",
        old="        return math.inf\n    steps",
        new="        return 0.0\n    steps",
        tests=(PRIVACY + "::test_nothing_costs_nothing_and_no_noise_costs_everything",),
    ),
    Mutation(
        name="accountant: epsilon falls below 0",
        file="common/accountant/renyi.py",
        at="bound",
        old="    return max(0.0, float(np.nanmin(found)))",
        new="    return float(np.nanmin(found))",
        tests=(PRIVACY + "::test_epsilon_is_never_below_0",),
    ),
    Mutation(
        name="accountant: short memory chooses the bound",
        file="common/accountant/accounting.py",
        at="_epsilon",
        old=_SUM,
        new=f"    try:\n    {_SUM}\n    except MemoryError:\n        return bound",
        tests=(PRIVACY + "::test_short_memory_is_an_error_and_never_another_epsilon",),
    ),
    Mutation(
        name="accountant: runs on every patient count once",
        file="common/accountant/accounting.py",
        at="_merged",
        old="math.fsum(steps / min(",
        new="math.fsum(1 / min(",
        tests=(PRIVACY + "::test_runs_on_every_patient_are_one_run_exactly",),
    ),
    Mutation(
        name="accountant: similar mechanisms count as the best of them",
        file="common/accountant/accounting.py",
        at="_gathered",
        old="(min(sigmas), max(rates), sum(steps))",
        new="(max(sigmas), min(rates), sum(steps))",
        tests=(PRIVACY + "::test_of_very_many_mechanisms_similar_ones_count_as_the_worst_of_them",),
    ),
    Mutation(
        name="accountant: an added patient does not count",
        file="common/accountant/privacy_loss.py",
        at="bound",
        old='    return max(removed, _epsilon(steps, delta, "added", 1))',
        new="    return removed",
        tests=(PRIVACY + "::test_the_worse_direction_counts",),
    ),
    Mutation(
        name="accountant: losses are rounded down to the grid",
        file="common/accountant/privacy_loss.py",
        at="_masses",
        old="    local[:-1] += mass - upper",
        new="    local[:-1] += mass\n    local[1:] -= upper",
        tests=(PRIVACY + "::test_epsilon_agrees_with_google_on_the_published_table_and_is_never_below_it",),
    ),
    Mutation(
        name="accountant: at the least deltas floating-point sums count",
        file="common/accountant/accounting.py",
        at="_epsilon",
        old="    if delta < LEAST_LOSS_DELTA or ",
        new="    if ",
        tests=(PRIVACY + "::test_below_the_deltas_that_were_compared_the_looser_bound_counts_alone",),
    ),
    Mutation(
        name="schedule: a round between two has the cost of the one before",
        file="common/plan/schedule.py",
        at="_costs",
        old="        costs += [cost] * (end - len(costs))",
        new="        costs += [costs[-1] if costs else cost] * (end - len(costs) - 1) + [cost]",
        tests=(SCHEDULE + "::test_a_plan_of_ten_thousand_rounds_asks_the_accountant_a_bounded_number_of_times",),
    ),
]
