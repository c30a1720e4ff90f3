"""Guards of a plan's identity, its digest: how to take each out."""

from mutation import Mutation

PLAN = "tests/common/test_plan.py"

PLANS = [
    Mutation(
        name="digest: a key that came later shows at its default",
        file="common/plan/canonical.py",
        at="_unused",
        old="    return _SINCE in field.metadata and value == field.default",
        new="    return False",
        tests=(PLAN,),
    ),
    Mutation(
        name="digest: a key that came later never shows",
        file="common/plan/canonical.py",
        at="_unused",
        old=" and value == field.default",
        new="",
        tests=(PLAN,),
    ),
    Mutation(
        name="digest: a key that came later is declared like the first ones",
        file="common/plan/model.py",
        at="ModelPlan.hidden",
        old='hidden: tuple[int, ...] = later((), since="0.1.0")',
        new="hidden: tuple[int, ...] = ()",
        tests=(PLAN,),
    ),
]
