"""Guards of the prior that is learnt from rehearsed studies: how to take each out."""

from mutation import Mutation

REHEARSAL = "tests/server/test_rehearsal.py"

PRIOR = [
    Mutation(
        name="prior: one that draws something else is kept",
        file="server/model/prior_guard.py",
        at="Guarded.kept",
        old="        return self.distance <= self.allowed",
        new="        return True",
        tests=(REHEARSAL,),
    ),
    Mutation(
        name="prior: the guard measures above the rehearsals alone",
        file="server/model/prior_guard.py",
        at="guarded",
        old="    model.start.load_state_dict(own)\n",
        new="",
        tests=(REHEARSAL,),
    ),
    Mutation(
        name="prior: one that is left out still speaks",
        file="server/model/warm_denoiser.py",
        at="read",
        old="    if not found.kept:\n        model.silence()\n",
        new="",
        tests=(REHEARSAL,),
    ),
    Mutation(
        name="prior: rehearsals have the noise of one site",
        file="server/model/rehearsal.py",
        at="closed_form",
        old="math.sqrt(plan.aggregation.min_sites)",
        new="1.0",
        tests=(REHEARSAL,),
    ),
]
