"""Guards of what a coordinator learns by asking, how to take each out, and the tests that must notice."""

from mutation import APP, HOSPITAL, Mutation

ATTRIBUTES, PROPOSAL = "tests/client/test_label_attributes.py", "tests/client/test_budget_cli.py"
CLOSED_FORM = "tests/server/test_closed_form.py"
MINIMA = HOSPITAL + "::test_the_larger_of_both_minima_counts_for_every_request"

HELLO = [
    Mutation(
        name="hello: which labels are there is told by a refusal",
        file="client/hospital.py",
        at="check_cohort",
        old="    policy.enough(site.policy, plan, patients=site.cohort(plan).patients)\n",
        new="    policy.enough(site.policy, plan, patients=site.cohort(plan).patients)\n"
        "    if len(site.cohort(plan).label_counts()) < len(plan.data.labels):\n"
        '        raise PlanRefused("no patient has a label of the plan")\n',
        tests=(HOSPITAL + "::test_no_answer_depends_on_which_labels_the_cohort_has",),
    ),
    Mutation(
        name="hello: labels may come from any attribute",
        file="client/site/policy.py",
        at="inside",
        old="    if not allowed(attribute, limits.label_attributes):",
        new="    if False:",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: a site may allow labels from what identifies",
        file="client/site/rules.py",
        at="SitePolicy.__post_init__",
        old="if identifies(keyword)]:",
        new="if False]:",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: what the patient's own group says may be a label",
        file="client/cohort/label_attributes.py",
        at="identifies",
        old="    return tag >> 16 in (_PATIENT, _VISIT) and keyword not in _OF_MANY",
        new="    return False",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: numbers and ids may be labels",
        file="client/cohort/label_attributes.py",
        at="identifies",
        old=" or _NAMES_ONE.search(keyword):",
        new=":",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: names, dates and UIDs may be labels",
        file="client/cohort/label_attributes.py",
        at="identifies",
        old="tag is None or dictionary_VR(tag) not in _SHORT",
        new="tag is None",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: it is answered for a plan outside the policy",
        file="client/conditions.py",
        at="admitted",
        old="    policy.inside(site.policy, plan)\n",
        new="",
        tests=(HOSPITAL + "::test_labels_from_an_attribute_that_the_site_does_not_allow_are_refused_at_every_request",),
    ),
    Mutation(
        name="hello: the site's own minimum does not count",
        file="client/site/policy.py",
        at="enough",
        old="    if patients >= max(own, asked):",
        new="    if patients >= asked:",
        tests=(MINIMA,),
    ),
    Mutation(
        name="hello: the plan's minimum does not count",
        file="client/site/policy.py",
        at="enough",
        old="    if patients >= max(own, asked):",
        new="    if patients >= own:",
        tests=(MINIMA,),
    ),
    Mutation(
        name="hello: a cohort of nobody is told from a small one",
        file="client/egress/refusals.py",
        at="reason_of",
        old="    return next(told, type(error)).__name__",
        new="    return type(error).__name__",
        tests=(APP + "::test_no_cohort_is_told_like_a_small_one_and_a_hello_that_is_refused_is_logged",),
    ),
    Mutation(
        name="hello: it leaves without a line in the egress log",
        file="client/hospital.py",
        at="greet",
        old='    egress.record(site.home, kind="hello", payload=plan.digest, size=0, keys=["site"], entry=0)\n',
        new="",
        tests=(APP + "::test_what_left_is_logged_and_so_is_a_refusal",),
    ),
    Mutation(
        name="approval: filters are not shown",
        file="client/approval/proposal.py",
        at="Proposal.text",
        old="            *selection.lines(data),\n",
        new="",
        tests=(PROPOSAL + "::test_a_steward_sees_every_filter_where_labels_come_from_and_what_is_written",),
    ),
    Mutation(
        name="closed form: a class of nobody has the spread of its noise",
        file="server/model/mixture.py",
        at="components",
        old="target if sums.empty[index] else _drawn(",
        new="_drawn(",
        tests=(CLOSED_FORM + "::test_a_class_that_no_site_has_takes_the_spread_of_all_and_can_be_drawn",),
    ),
]
