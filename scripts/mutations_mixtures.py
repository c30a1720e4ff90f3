"""Guards of the mixture's rounds, "centres" and "mixture": clip, shares, unit and sensitivity, how to take each out."""

from mutation import MOMENTS, Mutation

_OWN = "    latents = _latents(plan, weights, images)\n"
_UNCLIPPED = (
    '    offsets = images.reshape(len(images), -1).astype(np.float64) - weights["start.mean"]\n'
    '    latents = offsets @ weights["start.basis"] / (plan.privacy.deviation_clip * plan.data.image_size)\n'
)
_HELD = "    held = _held(plan, weights, latents, labels) * share[:, None]\n"
_AS_IMAGES = "    held = _held(plan, weights, latents, labels)\n"
_CENTRES, _MIXTURE = "    return np.concatenate([held.T @ latents,", "    return _spreads(latents, iter(held.T))"
_DIVIDED = "shares / shares.sum()"
_CHECKED = (
    "\n        sound = np.isfinite(held).all(axis=1) & (held >= 0).all(axis=1) & (held.sum(axis=1) <= 1 + 1e-9)\n"
)


def _at_the_site(*, name: str, at: str, old: str, new: str) -> Mutation:
    return Mutation(name=name, file="client/mechanism/moments.py", old=old, new=new, tests=(MOMENTS,), at=at)


MIXTURES = [
    _at_the_site(
        name="clip: moments are rounded by how many images stand beside",
        at="_latents",
        old='np.stack([np.einsum("d,dk->k", offset, basis) for offset in offsets])',
        new="(offsets @ basis)",
    ),
    _at_the_site(
        name="clip: moments of centres are not clipped",
        at="_centres",
        old=_OWN + _HELD + _CENTRES,
        new=_UNCLIPPED + _HELD + _CENTRES,
    ),
    _at_the_site(
        name="clip: moments of a mixture are not clipped",
        at="_mixture",
        old=_OWN + _HELD + _MIXTURE,
        new=_UNCLIPPED + _HELD + _MIXTURE,
    ),
    _at_the_site(
        name="unit: moments of centres weigh images, not patients",
        at="_centres",
        old=_HELD + _CENTRES,
        new=_AS_IMAGES + _CENTRES,
    ),
    _at_the_site(
        name="unit: moments of a mixture weigh images, not patients",
        at="_mixture",
        old=_HELD + _MIXTURE,
        new=_AS_IMAGES + _MIXTURE,
    ),
    _at_the_site(
        name="clip: moments by shares that are no numbers are kept",
        at="_held",
        old="np.where(sound[:, None], held / (1 + 1e-9), 0.0)",
        new="held / (1 + 1e-9)",
    ),
    _at_the_site(
        name="clip: moments by shares that pass 1 together are kept",
        at="_held",
        old=_DIVIDED + _CHECKED,
        new="shares" + _CHECKED.replace(" & (held.sum(axis=1) <= 1 + 1e-9)", ""),
    ),
    _at_the_site(
        name="clip: moments by shares are zero where these pass 1",
        at="_held",
        old=_DIVIDED,
        new="shares",
    ),
    Mutation(
        name="noise: moments of centres leave the count out",
        file="common/mechanism/moments.py",
        at="MECHANISMS",
        old="sensitivity=lambda _: _COUNTED,\n        # n / (C J) over s sqrt(k)",
        new="sensitivity=lambda _: 1.0,\n        # n / (C J) over s sqrt(k)",
        tests=(MOMENTS,),
    ),
    Mutation(
        name="noise: moments of a mixture leave the second moments out",
        file="common/mechanism/moments.py",
        at="MECHANISMS",
        old="sensitivity=lambda _: _COUNTED_TWICE,\n        # n / (C J) over s sqrt(2 k)",
        new="sensitivity=lambda _: _COUNTED,\n        # n / (C J) over s sqrt(2 k)",
        tests=(MOMENTS,),
    ),
]
