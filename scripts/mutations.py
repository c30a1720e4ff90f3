"""The guards of the privacy core, how to take each out, and the tests that must notice."""

from mutation import (
    APP,
    APPROVAL,
    CRASH,
    EGRESS,
    HOSPITAL,
    LEDGER,
    MESSAGES,
    NOISE_KEY,
    POLICY,
    SERVER,
    STORE,
    WEIGHTS,
    Mutation,
)
from mutations_accountant import ACCOUNTANT
from mutations_denoiser import DENOISER
from mutations_deployment import DEPLOYMENT
from mutations_gateway import GATEWAY
from mutations_hello import HELLO
from mutations_home import HOME
from mutations_identity import IDENTITY
from mutations_mechanisms import MECHANISMS
from mutations_more import MORE
from mutations_outlook import OUTLOOK
from mutations_pixels import PIXELS
from mutations_plan import PLANS
from mutations_release import RELEASE
from mutations_terminal import TERMINAL

_ENTRY_TAIL = """
        cohort=cohort.identity,
        patients=cohort.patient_keys,
        request=weights,
        utility=step.utility,"""
"""What stands below the event in the entry of a round, and not in that of a verdict."""

MUTATIONS = [
    *MECHANISMS,
    *ACCOUNTANT,
    *MORE,
    *DENOISER,
    *DEPLOYMENT,
    *GATEWAY,
    *HOME,
    *IDENTITY,
    *HELLO,
    *OUTLOOK,
    *PIXELS,
    *RELEASE,
    *PLANS,
    *TERMINAL,
    # --- booking ---
    Mutation(
        name="reserve: rounds are not booked",
        file="client/ledger/ledger.py",
        old='return _draft("reserve", entry, sigma=',
        new='return _draft("settle", entry, sigma=',
        tests=(LEDGER, HOSPITAL),
    ),
    Mutation(
        name="reserve: the booked noise is larger than the added",
        file="client/hospital.py",
        old="        event=step.event," + _ENTRY_TAIL,
        new="        event=GaussianEvent(sigma=99.0, sample_rate=step.event.sample_rate, steps=1)," + _ENTRY_TAIL,
        tests=(HOSPITAL,),
    ),
    Mutation(
        name="permit: a budget is never short",
        file="client/site/policy.py",
        old="    if not after <= limit:",
        new="    if False:",
        tests=(POLICY,),
    ),
    Mutation(
        name="permit: other studies do not count",
        file="client/site/policy.py",
        old='    _within(plan, "site", spent.site, after.site,',
        new='    _within(plan, "site", spent.plan, after.plan,',
        tests=(POLICY,),
    ),
    Mutation(
        name="permit: the cohort may be of any size",
        file="client/site/policy.py",
        old="    if patients is not None:",
        new="    if False:",
        tests=(POLICY,),
    ),
    Mutation(
        name="permit: it is asked, but not under the lock",
        file="client/ledger/ledger.py",
        old="            permit(Bookings.among(rows))",
        new="            permit(Bookings())",
        tests=(LEDGER,),
    ),
    Mutation(
        name="lock: rounds of one site run side by side",
        file="client/site/site.py",
        old='return locked(self.home / "round.lock")',
        new='return __import__("contextlib").nullcontext()',
        tests=(SERVER + "::test_a_flood_of_one_request_is_booked_once",),
    ),
    Mutation(
        name="ledger: the chain is not checked",
        file="client/ledger/ledger_store.py",
        old="if row.id != len(rows) + 1 or row.hash != row_hash(previous, tuple(values[:-1])):",
        new="if False:",
        tests=(STORE,),
    ),
    Mutation(
        name="ledger: its bytes are not compared with the seal",
        file="client/ledger/ledger_store.py",
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
        file="client/approval/approvals.py",
        old="        if plan.digest != digest or not known:",
        new="        if not known:",
        tests=(APPROVAL,),
    ),
    Mutation(
        name="digest: anything may name a plan",
        file="client/approval/approvals.py",
        old='        if not re.fullmatch(r"[0-9a-f]{64}", digest):',
        new="        if False:",
        tests=(APPROVAL, SERVER),
    ),
    Mutation(
        name="approval: a paused study goes on",
        file="client/approval/approvals.py",
        old='    if approval.state != "active":',
        new="    if False:",
        tests=(APPROVAL,),
    ),
    Mutation(
        name="message: unknown keys are let in",
        file="common/wire/messages.py",
        old="        if scalars:\n",
        new="        if False:\n",
        tests=(MESSAGES, SERVER),
    ),
    Mutation(
        name="message: an array may announce more than it holds",
        file="common/wire/messages.py",
        old="    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():",
        new="    if False:",
        tests=(MESSAGES, WEIGHTS),
    ),
    Mutation(
        name="message: weights are not checked",
        file="client/hospital.py",
        old='    check(request.arrays, shared_shapes(plan), what="request")\n    step = policy',
        new="    step = policy",
        tests=(WEIGHTS,),
    ),
    Mutation(
        name="finite: NaN and infinity are let in and out",
        file="common/model/weights.py",
        old="        if not np.isfinite(array).all():",
        new="        if False:",
        tests=(WEIGHTS, EGRESS),
    ),
    # --- what goes out ---
    Mutation(
        name="egress: a reply is not checked",
        file="client/egress/egress.py",
        old='    """Refuse a reply that differs in anything from what this round of this plan releases."""\n',
        new="    return\n",
        tests=(EGRESS,),
    ),
    Mutation(
        name="egress: what leaves is not written down",
        file="client/egress/egress.py",
        old='    record(home, kind="train", payload=payload, size=size, keys=sorted(reply.arrays), entry=entry)',
        new="    pass",
        tests=(EGRESS,),
    ),
    Mutation(
        name="egress: an error's text leaves",
        file="client/app.py",
        old="        content = _refusal(context, site, plan, reason_of(error))",
        new="        content = _refusal(context, site, plan, str(error))",
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
        tests=(CRASH,),
    ),
    Mutation(
        name="spool: a stored reply leaves with another ledger's head",
        file="client/ledger/ledger.py",
        old="        return bool(ends) and head in {row.hash for row in rows[ends[0] - 1 :]}",
        new="        return bool(ends)",
        tests=(CRASH,),
    ),
    Mutation(
        name="spool: a stored reply says itself whom it holds",
        file="client/ledger/ledger.py",
        old="if (row.kind, row.plan, row.cohort, row.note) == wanted]",
        new="if (row.kind, row.plan, cohort, row.note) == wanted]",
        tests=(CRASH,),
    ),
    Mutation(
        name="verdict: a stored one leaves with another ledger's head",
        file="client/hospital.py",
        old=" or not _stands(site, finished, finished.verdict, finished.verdict.candidate):",
        new=":",
        tests=("tests/client/test_verdict.py",),
    ),
    Mutation(
        name="key: a round's key outlives its reply",
        file="client/hospital.py",
        old="finished.cohort))\n        policy.approved_plan(site.home, request.plan)  # paused",
        new="'another'))\n        policy.approved_plan(site.home, request.plan)  # paused",
        tests=(CRASH,),
    ),
    Mutation(
        name="key: a crash leaves the door open for a second draw",
        file="client/ledger/noise_key.py",
        old="    return found if whole else None",
        new="    return RoundKey(key=SecureRandom.new_key(), entry=found.entry, generation=found.generation)",
        tests=(CRASH,),
    ),
    Mutation(
        name="key: one whose booking failed is used",
        file="client/hospital.py",
        old=" and ledger.pays_for(kept.entry, entry):",
        new=":",
        tests=(NOISE_KEY,),
    ),
    Mutation(
        name="key: it pays for a mechanism that is another by now",
        file="client/ledger/ledger.py",
        old="        return [_content(row) for row in found] == [dataclasses.astuple(draft) for draft in wanted]",
        new="        return len(found) == len(wanted)",
        tests=(NOISE_KEY,),
    ),
    Mutation(
        name="key: a round is taken up on other images",
        file="client/hospital.py",
        old="kept.generation == generation and ",
        new="",
        tests=(NOISE_KEY,),
    ),
    Mutation(
        name="key: another reservation's key makes the noise",
        file="client/hospital.py",
        old="    if kept is None or (kept.entry, kept.generation) != (number, site.admitted(plan).generation):",
        new="    if kept is None:",
        tests=(NOISE_KEY,),
    ),
    Mutation(
        name="approval: a reply leaves although it was paused meanwhile",
        file="client/hospital.py",
        old="        policy.approved_plan(site.home, request.plan)  # paused",
        new="        pass  # paused",
        tests=(CRASH, HOSPITAL, "tests/client/test_budget_cli.py"),
    ),
    Mutation(
        name="ledger: the site does not measure it by its own receipt",
        file="client/hospital.py",
        old="    site.ledger.require(egress.last_head(site.home))\n    site.ledger.require(request.last_head)",
        new="    site.ledger.require(request.last_head)",
        tests=(CRASH,),
    ),
    Mutation(
        name="consent: a stored reply with a patient who withdrew",
        file="client/hospital.py",
        old="    if not site.ledger.consents(finished.cohort):",
        new="    if False:",
        tests=("tests/client/test_consent.py", CRASH),
    ),
    Mutation(
        name="consent: a fresh reply with a patient who withdrew meanwhile",
        file="client/hospital.py",
        old="        site.ledger.require_consent(finished.cohort)\n        return egress.release(",
        new="        return egress.release(",
        tests=("tests/client/test_consent.py",),
    ),
    Mutation(
        name="consent: a fresh verdict with a patient who withdrew meanwhile",
        file="client/hospital.py",
        old="        site.ledger.require_consent(finished.cohort)\n        return egress.release_verdict(",
        new="        return egress.release_verdict(",
        tests=("tests/client/test_consent.py",),
    ),
    Mutation(
        name="consent: a round is taken up with a patient who withdrew since",
        file="client/hospital.py",
        old="        ledger.require_consent(entry.cohort)\n",
        new="",
        tests=("tests/client/test_consent.py",),
    ),
    Mutation(
        name="consent: a round is booked for a patient who withdrew since",
        file="client/ledger/ledger.py",
        old="            _require_consent(rows, entry.patients)\n",
        new="",
        tests=("tests/client/test_consent.py",),
    ),
    Mutation(
        name="consent: a patient who withdrew stays in",
        file="client/site/site.py",
        old="            self._caches[form] = consenting(whole, self.home, self.ledger.withdrawn())",
        new="            self._caches[form] = whole",
        tests=("tests/client/test_consent.py",),
    ),
]
