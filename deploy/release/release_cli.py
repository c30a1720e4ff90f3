"""`wardround release`, `verify`, `generate`, `walk` and `export-onnx`: what can be done with a finished study."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from common.display.terminal import emit, json_option, progress
from deploy.simulation.evidence_size import CANARIES, SHADOWS

if TYPE_CHECKING:
    from common.wire.release_bundle import Bundle

_folder = click.Path(path_type=Path)
_signer = click.option(
    "--signer", "trusted", default="", help="Fingerprint of the only signer to accept, as its owner told you."
)


@click.command()
@click.argument("run", type=_folder)
@click.option("--out", type=_folder, help="Folder to create.  [default: RUN/bundle]")
@click.option("--second-opinion", is_flag=True, help="Of a simulation: features of EfficientNet-Lite0, too.")
@click.option(
    "--canaries",
    default=CANARIES,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Of a simulation: artificial patients of the audit of its mechanism; 0 for no audit.",
)
@click.option(
    "--shadows",
    default=SHADOWS,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Of a simulation: shadow models, an even number, that try to tell who trained; 0 for none.",
)
@json_option
def release(run: Path, out: Path | None, *, second_opinion: bool, canaries: int, shadows: int, as_json: bool) -> None:
    """Make the signed bundle of the finished study in RUN, if every hospital in it has said yes."""
    if shadows % 2:
        raise click.BadParameter("give an even number: shadow models come in pairs", param_hint="--shadows")
    bundle = make(
        run, out or run / "bundle", quiet=as_json, second_opinion=second_opinion, canaries=canaries, shadows=shadows
    )
    result = {
        "bundle": str(bundle.folder),
        "signer": bundle.signer,
        "decoder_digest": bundle.decoder.digest,
        "epsilon_by_site": bundle.card["privacy"]["epsilon_by_site"],
        "verdicts": {site: verdict["outcome"] for site, verdict in bundle.card["verdicts"].items()},
    }
    emit(result, as_json=as_json, text=lambda: f"{bundle.folder}\nsigned by {bundle.signer}")


def make(run: Path, out: Path, *, quiet: bool, **options: Any) -> "Bundle":
    """Call `deploy.release.release.release` behind a progress bar.

    Args:
        run: Folder of the finished run.
        out: Folder of the bundle.
        quiet: Whether no bar is shown.
        **options: Keywords of `deploy.release.release.release`.
    """
    from deploy.release.release import release as publish

    with progress(quiet=quiet) as bar:
        task = bar.add_task("release", total=None)
        return publish(run, out, on_step=lambda word: bar.update(task, description=word), **options)


@click.command()
@click.argument("bundle", type=_folder)
@_signer
@json_option
def verify(bundle: Path, *, trusted: str, as_json: bool) -> None:
    """Check that BUNDLE is as it was signed, every byte; with --signer, by whom."""
    from common.wire.release_bundle import Bundle

    loaded = Bundle.load(bundle, trusted=trusted)
    result = {
        "bundle": str(bundle),
        "signer": loaded.signer,
        "study": loaded.decoder.plan.name,
        "trusted": bool(trusted),
    }
    word = "the trusted key" if trusted else "a key you have not named; compare it with the coordinator's"
    emit(result, as_json=as_json, text=lambda: f"unaltered, signed by {loaded.signer} ({word})")


@click.command()
@click.argument("bundle", type=_folder)
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Images of each label.")
@click.option("--label", "labels", multiple=True, help="Label to draw; repeat it.  [default: every label]")
@click.option(
    "--mix", type=click.Choice(["balanced", "prevalence"]), default="balanced", show_default=True,
    help="As many of each label, or as often as the study's noised counts say.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(["dicom", "png", "nifti", "npz"]), default="dicom", show_default=True
)
@click.option(
    "--dicom-edition", "edition", type=click.Choice(["2022", "current"]), default="current", show_default=True,
    help="2022 leaves Synthetic Data (0008,001C) out, which validators of before report as an error.",
)  # fmt: skip
@click.option("--dicomdir", is_flag=True, help="DICOM: lay the files out as on a disc, with a DICOMDIR.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same images.")
@click.option("--out", type=_folder, required=True, help="Folder to create.")
@_signer
@json_option
def generate(bundle: Path, out: Path, *, count: int, labels: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Draw synthetic images from the release in BUNDLE; nothing else is needed."""
    if options["dicomdir"] and options["form"] != "dicom":
        raise click.UsageError("--dicomdir lists DICOM files; take --format dicom")
    from deploy.release.generate import generate as draw

    def show(written: int) -> None:
        bar.advance(task, written)

    with progress(quiet=as_json) as bar:
        task = bar.add_task("images", total=count * len(labels) if labels else None)
        result = draw(bundle, out, count=count, labels=labels, on_image=show, **options)
    emit({"out": str(out), **result}, as_json=as_json, text=lambda: _drawn(out, result))


@click.command()
@click.argument("bundle", type=_folder)
@click.option("--out", type=_folder, required=True, help="Folder to create.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@_signer
@json_option
def walk(bundle: Path, out: Path, *, seed: int, trusted: str, as_json: bool) -> None:
    """Draw sheets that show what the generator learnt: from image to image, label to label, along each latent."""
    from deploy.release.sheets import write_sheets

    names = write_sheets(bundle, out, seed=seed, trusted=trusted)
    emit({"out": str(out), "sheets": names}, as_json=as_json, text=lambda: "\n".join(str(out / name) for name in names))


@click.command("export-onnx")
@click.argument("bundle", type=_folder)
@click.option("--out", type=_folder, required=True, help="File to write, e.g. decoder.onnx.")
@_signer
@json_option
def export_onnx(bundle: Path, out: Path, *, trusted: str, as_json: bool) -> None:
    """Write the decoder as ONNX and compare it with the original on the same latents."""
    from deploy.release.onnx_export import export

    result = export(bundle, out, trusted=trusted)
    emit(result, as_json=as_json, text=lambda: f"{out}: differs by at most {result['largest_difference']:.2e}")


def _drawn(out: Path, result: dict[str, Any]) -> str:
    dropped = result["screening"]["dropped"]
    left = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return f"{sum(result['images'].values())} images in {out}" + (f"; screening dropped {left}" if left else "")


COMMANDS = [release, verify, generate, walk, export_onnx]
"""What the main group takes in."""
