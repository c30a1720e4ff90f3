"""Guards of the moments along public directions: how to take each out."""

from mutation import Mutation

AT_SITES = "tests/client/test_directed_moments.py"
DIRECTIONS_OF = "tests/server/test_public_directions.py"

DIRECTIONS = [
    Mutation(
        name="directions: scatters along them are not clipped",
        file="common/mechanism/moments.py",
        at="directed_scatter",
        old="    clipped = clip(np.concatenate([along, beyond], axis=1) / clip_at, 1.0)",
        new="    clipped = np.concatenate([along, beyond], axis=1) / clip_at",
        tests=(AT_SITES,),
    ),
    Mutation(
        name="directions: what they leave is not clipped",
        file="common/mechanism/moments.py",
        at="directed_scatter",
        old="    clipped = clip(np.concatenate([along, beyond], axis=1) / clip_at, 1.0)",
        new="    clipped = np.concatenate([clip(along / clip_at, 1.0), beyond / clip_at], axis=1)",
        tests=(AT_SITES,),
    ),
    Mutation(
        name="directions: coordinates of many patients are made at once",
        file="client/mechanism/moments.py",
        at="_directed",
        old='        along[row] = np.einsum("d,dk->k", offset, basis)',
        new="        along[row] = (offsets @ basis)[row]",
        tests=(AT_SITES,),
    ),
    Mutation(
        name="directions: the public mean comes off after the clip",
        file="client/mechanism/moments.py",
        at="_means",
        old="    clipped = clip(coefficients(offsets, base=plan.data.image_size), bound)",
        new=(
            "    size = plan.data.image_size\n"
            "    clipped = clip(coefficients(images, base=size), bound) + coefficients(offsets - images, base=size)"
        ),
        tests=(AT_SITES,),
    ),
    Mutation(
        name="directions: those of another plan are taken",
        file="server/model/public_directions.py",
        at="with_directions",
        old='    if metadata.get("plan") != plan.digest:',
        new="    if False:",
        tests=(DIRECTIONS_OF,),
    ),
    Mutation(
        name="directions: a study that goes on finds them again",
        file="server/model/public_directions.py",
        at="with_directions",
        old="    if not path.exists():",
        new="    if True:",
        tests=(DIRECTIONS_OF,),
    ),
]
