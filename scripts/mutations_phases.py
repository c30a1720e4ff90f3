"""Guards of phases and sums: what an installation cannot run or read is refused before a hospital pays."""

from mutation import Mutation

COMPLETE = "tests/deploy/test_mechanisms.py"
PHASES = [
    Mutation(
        name="phase: a study begins whose last round the coordinator cannot take",
        file="server/protocol/rounds.py",
        at="run",
        old="    half.require(todo)\n",
        new="",
        tests=(COMPLETE,),
    ),
    Mutation(
        name="phase: a hospital says yes to a plan that it cannot run",
        file="client/hospital.py",
        at="greet",
        old="    require(plan, schedule(plan))\n",
        new="",
        tests=(COMPLETE,),
    ),
    Mutation(
        name="phase: a schedule may have a stage that no version knows",
        file="common/mechanism/registry.py",
        at="stages",
        old="    if unknown := [name for name in names if name not in STAGES]:",
        new="    if unknown := []:",
        tests=(COMPLETE,),
    ),
    Mutation(
        name="sum: a reply is added unchecked",
        file="server/protocol/collection.py",
        at="Collection._count",
        old="                self._sum.check(reply)\n",
        new="                pass\n",
        tests=("tests/server/test_rounds.py", "tests/server/test_hostile_moments.py"),
    ),
    Mutation(
        name="sum: numbers of any type leave a hospital",
        file="common/mechanism/sums.py",
        at="Sum.check",
        old="        check(arrays, shapes, what=what, dtype=self.dtype)",
        new="        check(arrays, shapes, what=what, dtype=str(next(iter(arrays.values())).dtype))",
        tests=(COMPLETE,),
    ),
]
