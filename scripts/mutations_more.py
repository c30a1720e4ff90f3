"""Guards that stood without a mutation: at the edges of a site, of a message and of a round."""

from mutation import CRASH, EGRESS, HOSPITAL, MESSAGES, POLICY, RANDOM, Mutation

SIGNING, ENROLMENT = "tests/common/test_signing.py", "tests/common/test_enrolment.py"
FORWARDER, ZYGOTE, FRAMES = (
    "tests/client/test_daemon_forwarder.py",
    "tests/client/test_daemon_zygote.py",
    "tests/client/test_daemon_frames.py",
)
QUARANTINE = "tests/server/test_quarantine.py"

MORE = [
    # --- randomness ---
    Mutation(
        name="divisor: it is the real cohort's size",
        file="client/hospital.py",
        old="    divisor = site.policy.declared_patients or plan.data.min_patients",
        new="    divisor = site.cohort(plan).patients",
        tests=(HOSPITAL + "::test_the_divisor_is_what_is_declared_or_the_plans_minimum_and_never_the_cohorts_size",),
    ),
    Mutation(
        name="divisor: what the hospital declares is not asked for",
        file="client/hospital.py",
        old="    divisor = site.policy.declared_patients or plan.data.min_patients",
        new="    divisor = plan.data.min_patients",
        tests=(HOSPITAL + "::test_the_divisor_is_what_is_declared_or_the_plans_minimum_and_never_the_cohorts_size",),
    ),
    Mutation(
        name="randomness: a forked child draws what its parent would",
        file="client/daemon/zygote.py",
        old="        _fresh_randomness()\n",
        new="",
        tests=(ZYGOTE + "::test_no_child_draws_what_another_drew",),
    ),
    Mutation(
        name="randomness: a uniform value may be 1",
        file="client/mechanism/randomness.py",
        old="        return np.minimum(middles, _MOST_UNIFORM, out=middles)",
        new="        return middles",
        tests=(RANDOM + "::test_a_uniform_value_is_never_1_and_at_a_rate_of_1_everybody_is_drawn",),
    ),
    # --- what a site lets in ---
    Mutation(
        name="message: a text may be of any length",
        file="common/wire/messages.py",
        old="    if kind is str and isinstance(value, str) and len(value) <= 256:",
        new="    if kind is str and isinstance(value, str):",
        tests=(MESSAGES + "::test_scalars_that_are_unknown_or_of_another_type_are_refused",),
    ),
    Mutation(
        name="message: an epsilon that is no number is read",
        file="common/wire/messages.py",
        old="isinstance(value, float) and not math.isnan(value):",
        new="isinstance(value, float):",
        tests=(MESSAGES + "::test_epsilon_that_is_not_a_number_is_refused",),
    ),
    Mutation(
        name="message: arrays may be of any size together",
        file="common/wire/messages.py",
        old="    if sum(len(array.data) for array in arrays.values()) > MAX_BYTES:",
        new="    if False:",
        tests=(MESSAGES + "::test_arrays_that_are_too_large_together_are_refused_before_they_are_read",),
    ),
    Mutation(
        name="message: packed arrays may be of any type",
        file="common/wire/messages.py",
        old='    if odd := [name for name, array in arrays.items() if array.dtype != np.dtype("<f4")]:',
        new="    if odd := []:",
        tests=(MESSAGES + "::test_packed_arrays_that_are_not_what_they_announce_are_refused",),
    ),
    Mutation(
        name="message: a refusal carries any text",
        file="common/wire/messages.py",
        old="        if by_name(self.reason).__name__ != self.reason:",
        new="        if False:",
        tests=(MESSAGES + "::test_a_refusal_carries_a_known_type_and_no_text",),
    ),
    Mutation(
        name="request: a last head may be any text",
        file="client/hospital.py",
        old='    if not re.fullmatch(r"[0-9a-f]{64}|", request.last_head):',
        new="    if False:",
        tests=(CRASH + "::test_a_head_that_is_none_is_refused",),
    ),
    Mutation(
        name="round: one beyond the plan's is let in",
        file="client/site/policy.py",
        old="    if not 1 <= number <= len(rounds):",
        new="    if number > len(rounds):",
        tests=(POLICY + "::test_a_round_is_the_plans_own_or_refused",),
    ),
    Mutation(
        name="frames: a frame may announce any length",
        file="client/daemon/frames.py",
        old="    if length > _MOST:",
        new="    if False:",
        tests=(FRAMES,),
    ),
    # --- what a site lets out ---
    Mutation(
        name="forwarder: any path leaves",
        file="client/daemon/forwarder.py",
        old="        if not _METHOD.fullmatch(method) or method in _NOT_PASSED or request.url.query:",
        new="        if False:",
        tests=(FORWARDER + "::test_nothing_but_fleet_calls_leaves",),
    ),
    Mutation(
        name="forwarder: a body may be of any size",
        file="client/daemon/forwarder.py",
        old="        if len(body) > MAX_BYTES:",
        new="        if False:",
        tests=(FORWARDER + "::test_a_body_too_large_is_refused_here",),
    ),
    Mutation(
        name="forwarder: every header leaves",
        file="client/daemon/forwarder.py",
        old=" if _PASSED_HEADERS.fullmatch(key.lower())}",
        new="}",
        tests=(FORWARDER + "::test_a_fleet_call_arrives_as_it_was_sent_and_so_does_its_answer",),
    ),
    Mutation(
        name="runner: an answer of any form leaves",
        file="client/daemon/runner.py",
        old="        if any(_has_form(content, form) for form in (HelloReply, TrainReply, Verdict)):",
        new="        if True:",
        tests=(ZYGOTE + "::test_only_the_known_forms_of_an_answer_are_passed_on",),
    ),
    Mutation(
        name="egress: any text is a site's name",
        file="client/egress/egress.py",
        old='        "site": re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", reply.site) is not None,',
        new="",
        tests=(EGRESS + "::test_anything_that_is_not_this_rounds_release_is_refused",),
    ),
    Mutation(
        name="egress: any text is the ledger's head",
        file="client/egress/egress.py",
        old='        "ledger_head": re.fullmatch(r"[0-9a-f]{64}", reply.ledger_head) is not None,',
        new="",
        tests=(EGRESS + "::test_anything_that_is_not_this_rounds_release_is_refused",),
    ),
    Mutation(
        name="egress: a reply may state an epsilon past the plan's",
        file="client/egress/egress.py",
        old='        "epsilon": type(reply.epsilon) is float and 0 <= reply.epsilon <= limit,',
        new="",
        tests=(EGRESS + "::test_anything_that_is_not_this_rounds_release_is_refused",),
    ),
    Mutation(
        name="egress log: a file that was altered does not show",
        file="client/egress/check.py",
        old="        elif first != continued(older):",
        new="        elif False:",
        tests=(EGRESS + "::test_a_file_that_was_altered_or_taken_away_shows",),
    ),
    # --- what the coordinator counts ---
    Mutation(
        name="quarantine: an answer to another round counts",
        file="server/aggregation/quarantine.py",
        old="    if (reply.plan, reply.round, reply.phase) != (plan.digest, step.number, step.phase):",
        new="    if False:",
        tests=(QUARANTINE + "::test_a_reply_that_says_something_else_than_it_was_asked_is_left_out",),
    ),
    Mutation(
        name="quarantine: a reply may state any cost",
        file="server/aggregation/quarantine.py",
        old="    if reply.delta != plan.privacy.delta or (",
        new="    if False and (",
        tests=(QUARANTINE + "::test_a_reply_that_says_something_else_than_it_was_asked_is_left_out",),
    ),
    Mutation(
        name="quarantine: one site answers for another",
        file="server/aggregation/quarantine.py",
        old="        if reply.site != site:",
        new="        if False:",
        tests=(QUARANTINE + "::test_a_reply_that_says_something_else_than_it_was_asked_is_left_out",),
    ),
    Mutation(
        name="quarantine: a reply may hold more than the release",
        file="server/aggregation/quarantine.py",
        old="    if extra := sorted(set(arrays) - set(shapes)):",
        new="    if extra := []:",
        tests=(QUARANTINE + "::test_a_reply_that_holds_more_than_its_release_is_left_out_by_name",),
    ),
    Mutation(
        name="quarantine: a metric beside the release is let in",
        file="server/aggregation/quarantine.py",
        old="    _refuse_extra_keys(record)\n",
        new="",
        tests=(QUARANTINE + "::test_a_reply_that_holds_more_than_its_release_is_left_out_by_name",),
    ),
    Mutation(
        name="plausible: a class may hold fewer patients than none",
        file="server/aggregation/plausible.py",
        old="    if (claim.counts < -blur).any():",
        new="    if False:",
        tests=(QUARANTINE + "::test_a_release_that_no_cohorts_sums_could_be_is_left_out",),
    ),
    Mutation(
        name="plausible: a spread may be negative",
        file="server/aggregation/plausible.py",
        old="    if (claim.scatters[:, diagonal].sum(axis=1) < -_SLACK * deviation * math.sqrt(side)).any():",
        new="    if False:",
        tests=(QUARANTINE + "::test_a_release_that_no_cohorts_sums_could_be_is_left_out",),
    ),
    # --- papers and signatures ---
    Mutation(
        name="signing: a manifest reaches outside its folder",
        file="common/wire/signing.py",
        old="        if Path(name).name != name or ",
        new="        if ",
        tests=(SIGNING,),
    ),
    Mutation(
        name="signing: a manifest of another form is read",
        file="common/wire/signing.py",
        old="    if schema != SCHEMA or canonical(manifest) != raw:",
        new="    if False:",
        tests=(SIGNING,),
    ),
    Mutation(
        name="enrolment: a file may hold unknown keys",
        file="common/wire/enrolment.py",
        old="        if not right or set(table) != names:",
        new="        table = {key: table[key] for key in names if key in table}\n        if not right:",
        tests=(ENROLMENT,),
    ),
    Mutation(
        name="enrolment: an endless file is read",
        file="common/wire/enrolment.py",
        old="        if len(content) > MAX_BYTES:",
        new="        if False:",
        tests=(ENROLMENT,),
    ),
    Mutation(
        name="weights: an array of another shape or type is let in",
        file="common/model/weights.py",
        old="        if array.dtype != np.float32 or array.shape != shape:",
        new="        if False:",
        tests=("tests/common/test_weights.py::test_odd_arrays_are_refused",),
    ),
]
