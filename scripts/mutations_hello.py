"""Guards of what a coordinator learns by asking, how to take each out, and the tests that must notice."""

from mutation import APP, HOSPITAL, POLICY, Mutation

ATTRIBUTES, PROPOSAL = "tests/client/test_label_attributes.py", "tests/client/test_budget_cli.py"
CLOSED_FORM = "tests/server/test_closed_form.py"

HELLO = [
    Mutation(
        name="hello: which labels are there is told by a refusal",
        file="client/hospital.py",
        old="    policy.enough(site.policy, plan, patients=site.cohort(plan).patients)\n",
        new="    policy.enough(site.policy, plan, patients=site.cohort(plan).patients)\n"
        "    if len(site.cohort(plan).label_counts()) < len(plan.data.labels):\n"
        '        raise PlanRefused("no patient has a label of the plan")\n',
        tests=(HOSPITAL,),
    ),
    Mutation(
        name="hello: labels may come from any attribute",
        file="client/policy.py",
        old="    if not allowed(attribute, limits.label_attributes):",
        new="    if False:",
        tests=(ATTRIBUTES, HOSPITAL),
    ),
    Mutation(
        name="hello: a site may allow labels from what identifies",
        file="client/site_rules.py",
        old="if identifies(keyword)]:",
        new="if False]:",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: what the patient's own group says may be a label",
        file="client/label_attributes.py",
        old="    return tag >> 16 in (_PATIENT, _VISIT) and keyword not in _OF_MANY",
        new="    return False",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: numbers and ids may be labels",
        file="client/label_attributes.py",
        old=" or _NAMES_ONE.search(keyword):",
        new=":",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: names, dates and UIDs may be labels",
        file="client/label_attributes.py",
        old="tag is None or dictionary_VR(tag) not in _SHORT",
        new="tag is None",
        tests=(ATTRIBUTES,),
    ),
    Mutation(
        name="hello: it is answered for a plan outside the policy",
        file="client/hospital.py",
        old="    policy.inside(site.policy, plan)\n",
        new="",
        tests=(HOSPITAL,),
    ),
    Mutation(
        name="hello: the site's own minimum does not count",
        file="client/policy.py",
        old="    if patients >= max(own, asked):",
        new="    if patients >= asked:",
        tests=(HOSPITAL, POLICY),
    ),
    Mutation(
        name="hello: the plan's minimum does not count",
        file="client/policy.py",
        old="    if patients >= max(own, asked):",
        new="    if patients >= own:",
        tests=(HOSPITAL,),
    ),
    Mutation(
        name="hello: a cohort of nobody is told from a small one",
        file="client/refusals.py",
        old="    return _TOLD_AS.get(type(error).__name__, type(error)).__name__",
        new="    return type(error).__name__",
        tests=(APP,),
    ),
    Mutation(
        name="hello: it leaves without a line in the egress log",
        file="client/hospital.py",
        old='    egress.record(site.home, kind="hello", payload=plan.digest, size=0, keys=["site"], entry=0)\n',
        new="",
        tests=(APP,),
    ),
    Mutation(
        name="approval: filters are not shown",
        file="client/proposal.py",
        old="            *selection.lines(data),\n",
        new="",
        tests=(PROPOSAL,),
    ),
    Mutation(
        name="closed form: a class of nobody has the spread of its noise",
        file="server/mixture.py",
        old="target if sums.nobody[index] else _drawn(",
        new="_drawn(",
        tests=(CLOSED_FORM,),
    ),
]
