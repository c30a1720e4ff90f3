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
        old='hidden: Annotated[tuple[int, ...], *_HIDDEN] = later((), since="0.1.0")',
        new="hidden: Annotated[tuple[int, ...], *_HIDDEN] = ()",
        tests=(PLAN,),
    ),
    Mutation(
        name="plan: a key may hold what its bounds forbid",
        file="common/plan/bounds.py",
        at="Table.__post_init__",
        old="            self.must(bound.keeps(getattr(self, name)), name, bound.words)",
        new="            pass",
        tests=(PLAN,),
    ),
    Mutation(
        name="plan: a number has no bounds",
        file="common/plan/training.py",
        at="TrainingPlan",
        old="Annotated[float, Within(0, 1, above=True)]",
        new="float",
        tests=("tests/common/test_plan_faults.py",),
    ),
]
