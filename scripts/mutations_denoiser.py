"""Guards of the denoiser that gradient rounds train: how to take each out."""

from mutation import Mutation

TRAINING, REFINED = "tests/client/test_denoiser_training.py", "tests/common/test_refined.py"

DENOISER = [
    Mutation(
        name="denoiser: a layer mixes the images of a pass",
        file="common/model/denoiser.py",
        at="Denoiser.forward",
        old="        fine = self.before(fine, told)\n",
        new="        fine = self.before(fine - fine.mean(0, keepdim=True), told)\n",
        tests=(REFINED,),
    ),
    Mutation(
        name="denoiser: a level of noise depends on the images of a pass",
        file="common/model/refined.py",
        at="RefinedVae.loss",
        old="clean, level = images[:, 0], levels(noise[:, 0])",
        new="clean, level = images[:, 0], levels(noise[:, 0]) * images.std()",
        tests=(REFINED,),
    ),
    Mutation(
        name="denoiser: a fresh one speaks",
        file="common/model/denoiser.py",
        at="Denoiser.__init__",
        old="for silent in (self.told, self.leave):",
        new="for silent in (self.told,):",
        tests=(REFINED,),
    ),
]
