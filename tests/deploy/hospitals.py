"""Three tiny phantom hospitals and a plan for them, made once a session: what flow tests run on."""

from pathlib import Path

from deploy.data.demo_data import write_demo_hospitals

PLAN = """
name = "tiny-phantoms"
[data]
modality = ["CR", "DX"]
body_part = "CHEST"
image_size = 28
labels = ["normal", "lesion"]
min_patients = 20
[model]
latent = 4
channels = [4, 8]
base = 8
[training]
rounds = 2
local_steps = 3
sample_rate = 0.2
[privacy]
epsilon = 8
mean_clip = 0.65
deviation_clip = 0.25
[aggregation]
min_sites = 2
deadline_s = 120
[release]
images_per_label = 4
"""


def write(folder: Path) -> tuple[Path, list[Path]]:
    """Write the plan and the three hospitals; return both."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "plan.toml"
    plan.write_text(PLAN)
    return plan, write_demo_hospitals(folder / "hospitals", patients=(40, 30, 24), seed=3)
