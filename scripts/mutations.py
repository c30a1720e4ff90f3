"""The guards of the privacy core, how to take each out, and the tests that must notice."""

from dataclasses import dataclass

TRAINER, AUDIT, MOMENTS = "tests/client/test_trainer.py", "tests/client/test_audit.py", "tests/client/test_moments.py"
HOSPITAL, EGRESS, APP = "tests/client/test_hospital.py", "tests/client/test_egress.py", "tests/client/test_app.py"
POLICY, APPROVAL = "tests/client/test_policy.py", "tests/client/test_approval.py"
LEDGER, STORE = "tests/client/test_ledger.py", "tests/client/test_ledger_store.py"
SERVER, WEIGHTS = "tests/client/test_hostile_server.py", "tests/client/test_hostile_weights.py"
MESSAGES, PRIVACY, RANDOM = (
    "tests/common/test_messages.py",
    "tests/common/test_privacy.py",
    "tests/client/test_randomness.py",
)


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """One guard taken out.

    Attributes:
        name: The guard and what becomes of it.
        file: The source file that holds it.
        old: Its text there, once.
        new: What stands there instead.
        tests: The tests that are run, as pytest takes them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = [
    # --- noise ---
    Mutation(
        name="noise: none is added to gradients",
        file="client/trainer.py",
        old="std=self.noise_multiplier * self.max_grad_norm)",
        new="std=0.0)",
        tests=(AUDIT,),
    ),
    Mutation(
        name="noise: a third of it is added to gradients",
        file="client/trainer.py",
        old="std=self.noise_multiplier * self.max_grad_norm)",
        new="std=self.noise_multiplier * self.max_grad_norm / 3)",
        tests=(AUDIT,),
    ),
    Mutation(
        name="noise: none is added to moments",
        file="client/moments.py",
        old="std=step.event.sigma * sensitivity(plan, step.phase))",
        new="std=0.0)",
        tests=(MOMENTS,),
    ),
    Mutation(
        name="noise: moments leave the sensitivity out",
        file="client/moments.py",
        old="std=step.event.sigma * sensitivity(plan, step.phase))",
        new="std=step.event.sigma)",
        tests=(MOMENTS,),
    ),
    Mutation(
        name="noise: normal values are too small",
        file="client/randomness.py",
        old="(std / math.sqrt(_DRAWS))",
        new="(std / _DRAWS)",
        tests=(RANDOM,),
    ),
    Mutation(
        name="noise: a plan without it runs at a hospital",
        file="client/hospital.py",
        old="    if not plan.privacy.enabled and not site.simulated:",
        new="    if False:",
        tests=(HOSPITAL,),
    ),
    # --- clipping and sensitivity ---
    Mutation(
        name="clip: gradients are not clipped",
        file="client/trainer.py",
        old="            self.optimizer.clip_and_accumulate()",
        new="            for p in self._parameters.values(): p.summed_grad += p.grad_sample.sum(0)",
        tests=(AUDIT,),
    ),
    Mutation(
        name="clip: a gradient that is not finite is kept",
        file="client/trainer.py",
        old="torch.where(finite.view(-1, *(1,) * (g.dim() - 1)), g, 0.0)",
        new="g",
        tests=(TRAINER,),
    ),
    Mutation(
        name="clip: moments are not clipped",
        file="common/moments.py",
        old="finite * np.minimum(1.0, bound / np.maximum(norms, 1e-300)) * (1 - 1e-12)",
        new="finite",
        tests=(MOMENTS,),
    ),
    Mutation(
        name="clip: moments that are not finite are kept",
        file="common/moments.py",
        old="np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, 0.0)",
        new="vectors",
        tests=(MOMENTS,),
    ),
    Mutation(
        name="clip: the second moment comes before its clip",
        file="client/moments.py",
        old="deviations = clip((coefficients(images, base=base) - centre) / plan.privacy.deviation_clip, 1.0)",
        new="deviations = clip(coefficients(images, base=base), 1.0) / plan.privacy.deviation_clip - centre",
        tests=(MOMENTS,),
    ),
    Mutation(
        name="unit: an image weighs as a patient in the moments",
        file="client/moments.py",
        old="np.full(len(y), 1.0 / len(y))",
        new="np.full(len(y), 1.0)",
        tests=(MOMENTS,),
    ),
    # --- sampling ---
    Mutation(
        name="sampling: everybody is drawn at every step",
        file="client/randomness.py",
        old="np.flatnonzero(self.uniform(population) < rate)",
        new="np.arange(population)",
        tests=(AUDIT,),
    ),
    Mutation(
        name="secrecy: a hospital's randomness has a known seed",
        file="client/randomness.py",
        old="        return os.urandom(32)",
        new="        return bytes(32)",
        tests=(RANDOM, HOSPITAL),
    ),
    Mutation(
        name="secrecy: a hospital takes the simulation's randomness",
        file="client/site.py",
        old="            return SecureRandom(SecureRandom.new_key() if key is None else key)",
        new="            return SecureRandom.simulated(0, self.policy.name, *context)",
        tests=(HOSPITAL, SERVER),
    ),
    Mutation(
        name="secrecy: a daemon accepts a seed",
        file="client/app.py",
        old='if asked := sorted({"simulation", "seed"} & set(context.run_config) - _empty(context)):',
        new="if asked := []:",
        tests=(APP, SERVER),
    ),
    # --- booking ---
    Mutation(
        name="reserve: rounds are not booked",
        file="client/ledger.py",
        old='booking = _draft("reserve", entry, sigma=',
        new='booking = _draft("settle", entry, sigma=',
        tests=(LEDGER, HOSPITAL),
    ),
    Mutation(
        name="reserve: the booked noise is larger than the added",
        file="client/hospital.py",
        old="        event=step.event,\n        cohort=",
        new="        event=GaussianEvent(sigma=99.0, sample_rate=step.event.sample_rate, steps=1),\n        cohort=",
        tests=(HOSPITAL,),
    ),
    Mutation(
        name="permit: a budget is never short",
        file="client/policy.py",
        old="    if not after <= limit:",
        new="    if False:",
        tests=(POLICY,),
    ),
    Mutation(
        name="permit: other studies do not count",
        file="client/policy.py",
        old='    _within(plan, "site", spent[1], after[1], limits.max_epsilon_total)',
        new='    _within(plan, "site", spent[0], after[0], limits.max_epsilon_total)',
        tests=(POLICY,),
    ),
    Mutation(
        name="permit: the cohort may be of any size",
        file="client/policy.py",
        old="    if patients is not None and patients < limits.min_patients:",
        new="    if False:",
        tests=(POLICY,),
    ),
    Mutation(
        name="permit: it is asked, but not under the lock",
        file="client/ledger.py",
        old="            permit(_events(rows, entry.plan), _events(rows, None))",
        new="            permit([], [])",
        tests=(LEDGER,),
    ),
    Mutation(
        name="lock: rounds of one site run side by side",
        file="client/site.py",
        old="            fcntl.flock(handle, fcntl.LOCK_EX)",
        new="            pass",
        tests=(SERVER + "::test_a_flood_of_one_request_is_booked_once",),
    ),
    Mutation(
        name="accountant: epsilon is understated by 3 %",
        file="common/privacy.py",
        old="    return min(bound, tighter) if",
        new="    return 0.97 * min(bound, tighter) if",
        tests=(PRIVACY + "::test_epsilon_agrees_with_google_on_the_published_table_and_is_never_below_it",),
    ),
    Mutation(
        name="accountant: a mechanism without noise is free",
        file="common/privacy.py",
        old="        return math.inf\n    with",
        new="        return 0.0\n    with",
        tests=(PRIVACY + "::test_nothing_costs_nothing_and_no_noise_costs_everything",),
    ),
    Mutation(
        name="ledger: the chain is not checked",
        file="client/ledger_store.py",
        old="if row.id != len(rows) + 1 or row.hash != row_hash(previous, tuple(values[:-1])):",
        new="if False:",
        tests=(STORE,),
    ),
    Mutation(
        name="ledger: its bytes are not compared with the seal",
        file="client/ledger_store.py",
        old="        if seal.file != self._file_digest():",
        new="        if False:",
        tests=(STORE,),
    ),
    Mutation(
        name="ledger: an older copy is not noticed",
        file="client/hospital.py",
        old="    site.ledger.require(request.last_head)",
        new="    pass",
        tests=(SERVER,),
    ),
    # --- what comes in ---
    Mutation(
        name="digest: the stored plan is not compared with it",
        file="client/approval.py",
        old="        if plan.digest != digest or not known:",
        new="        if not known:",
        tests=(APPROVAL,),
    ),
    Mutation(
        name="digest: anything may name a plan",
        file="client/approval.py",
        old='        if not re.fullmatch(r"[0-9a-f]{64}", digest):',
        new="        if False:",
        tests=(APPROVAL, SERVER),
    ),
    Mutation(
        name="approval: a paused study goes on",
        file="client/approval.py",
        old='    if approval.state != "active":',
        new="    if False:",
        tests=(APPROVAL,),
    ),
    Mutation(
        name="message: unknown keys are let in",
        file="common/messages.py",
        old="        if scalars:\n",
        new="        if False:\n",
        tests=(MESSAGES, SERVER),
    ),
    Mutation(
        name="message: an array may announce more than it holds",
        file="common/messages.py",
        old="    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():",
        new="    if False:",
        tests=(MESSAGES, WEIGHTS),
    ),
    Mutation(
        name="message: weights are not checked",
        file="client/hospital.py",
        old='    check(request.arrays, shapes(plan), what="request")',
        new="    pass",
        tests=(WEIGHTS,),
    ),
    Mutation(
        name="finite: NaN and infinity are let in and out",
        file="common/weights.py",
        old="        if not np.isfinite(array).all():",
        new="        if False:",
        tests=(WEIGHTS, EGRESS),
    ),
    # --- what goes out ---
    Mutation(
        name="egress: a reply is not checked",
        file="client/egress.py",
        old='    """Refuse a reply that differs in anything from what this round of this plan releases."""\n',
        new="    return\n",
        tests=(EGRESS,),
    ),
    Mutation(
        name="egress: what leaves is not written down",
        file="client/egress.py",
        old='    record(home, kind="train", payload=payload, size=size, keys=sorted(reply.arrays), entry=entry)',
        new="    pass",
        tests=(EGRESS,),
    ),
    Mutation(
        name="egress: an error's text leaves",
        file="client/app.py",
        old="        content = _refusal(site, plan, type(error).__name__)",
        new="        content = _refusal(site, plan, str(error))",
        tests=(APP,),
    ),
    Mutation(
        name="spool: a repeated request is computed anew",
        file="client/hospital.py",
        old="    finished = spool.find(site.home, request)\n",
        new="    finished = None\n",
        tests=(HOSPITAL, SERVER),
    ),
    Mutation(
        name="spool: a stored reply need not be the settled one",
        file="client/hospital.py",
        old="    if not site.ledger.settled(",
        new="    if not (lambda *_, **__: True)(",
        tests=(HOSPITAL,),
    ),
    Mutation(
        name="consent: a patient who withdrew stays in",
        file="client/site.py",
        old="        return consenting(Cache.open(self.home), self.home, self.ledger.withdrawn())",
        new="        return Cache.open(self.home)",
        tests=("tests/client/test_consent.py",),
    ),
]
