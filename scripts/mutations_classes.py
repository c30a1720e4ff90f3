"""Guards of the rounds "means" and "scatters", the moments of each class: how to take each out."""

from mutation import APART, MOMENTS, Mutation

HOSTILE = "tests/server/test_hostile_moments.py"
_CLIPPED = "deviations = clip((spectra[mine] - centre) / plan.privacy.deviation_clip, 1.0)"


def _at_the_site(*, name: str, at: str, old: str, new: str) -> Mutation:
    return Mutation(name=name, file="client/mechanism/moments.py", old=old, new=new, tests=(MOMENTS,), at=at)


CLASSES = [
    _at_the_site(
        name="clip: means of classes are not clipped",
        at="_means",
        old="    clipped = clip(coefficients(offsets, base=plan.data.image_size), bound)",
        new="    clipped = coefficients(offsets, base=plan.data.image_size)",
    ),
    _at_the_site(
        name="clip: scatters of classes are not clipped",
        at="_scatters",
        old=_CLIPPED,
        new="deviations = (spectra[mine] - centre) / plan.privacy.deviation_clip",
    ),
    _at_the_site(
        name="clip: scatters are clipped within the base alone",
        at="_scatters",
        old=_CLIPPED,
        new=(
            "deviations = (spectra[mine] - centre) / plan.privacy.deviation_clip\n"
            "        inside = deviations.reshape(-1, size, size)[:, :base, :base].reshape(-1, base**2)\n"
            "        deviations = deviations / np.maximum(1.0, np.linalg.norm(inside, axis=1, keepdims=True))"
        ),
    ),
    _at_the_site(
        name="unit: scatters of classes weigh images, not patients",
        at="_scatters",
        old="        held = share[mine]\n",
        new="        held = np.ones_like(share[mine])\n",
    ),
    _at_the_site(
        name="unit: means of classes weigh images, not patients",
        at="_means",
        old="        held = share * (labels == index)\n        rows += [held @ clipped",
        new="        held = 1.0 * (labels == index)\n        rows += [held @ clipped",
    ),
    _at_the_site(
        name="unit: a patient is in the scatter of every class",
        at="_scatters",
        old="        mine = labels == index\n",
        new="        mine = labels == labels\n",
    ),
    Mutation(
        name="noise: means of classes leave the count out",
        file="common/mechanism/moments.py",
        at="MECHANISMS",
        old="sensitivity=lambda plan: plan.privacy.mean_clip * _COUNTED,",
        new="sensitivity=lambda plan: plan.privacy.mean_clip,",
        tests=(MOMENTS,),
    ),
    Mutation(
        name="noise: scatters of classes leave the count out",
        file="common/mechanism/moments.py",
        at="MECHANISMS",
        old="sensitivity=lambda _: _COUNTED,\n        # n / C over s sqrt(2 m)",
        new="sensitivity=lambda _: 1.0,\n        # n / C over s sqrt(2 m)",
        tests=(MOMENTS,),
    ),
    Mutation(
        name="trainer: a start of its own for each class is an unknown layer",
        file="common/model/generator.py",
        at="Generator",
        old="= (LinearStart, ClassStart)",
        new="= (LinearStart,)",
        tests=(APART + "::test_such_weights_of_a_start_by_class_move_the_sum_by_one_clip_norm_at_most",),
    ),
    Mutation(
        name="plausible: energies of a class may be negative",
        file="server/aggregation/plausible.py",
        at="contradictions",
        old="    if (claim.energies < -_SLACK * deviation).any():",
        new="    if False:",
        tests=(HOSTILE,),
    ),
    Mutation(
        name="plausible: energies of a class may be anything",
        file="server/aggregation/plausible.py",
        at="contradictions",
        old="    for moments in (claim.sums, claim.scatters, claim.energies):",
        new="    for moments in (claim.sums, claim.scatters):",
        tests=(HOSTILE,),
    ),
]
