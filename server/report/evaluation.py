"""The evaluation part of the report: sites' figures as rows and pictures; only a simulation on public data has any."""

from typing import Any

from common.wire.not_run import NotRun
from server.report.charts_evaluation import curve_chart, interval_chart

_QUESTIONS = {
    "distance_ratio": "Distance to the nearest synthetic image, training patients over held-out ones",
    "distance_auc": "Can that distance tell who trained? (AUC)",
}


def evaluated(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Rearrange the card's `evaluation` for the page: empty where it is, else rows by table and charts.

    Args:
        evaluation: "notice", and "sites": figures by site as `client.evaluation.figures` makes them.
    """
    sites = {name: figures for name, figures in sorted(evaluation.get("sites", {}).items()) if figures["fidelity"]}
    if not sites:
        return {}
    first = next(iter(sites.values()))
    return {
        "notice": evaluation["notice"],
        "features": first["features"],
        "patients": {site: figures["patients"] for site, figures in sites.items()},
        "fidelity": [
            {"site": site, "label": label, "set": kind, **row[kind]}
            for site, figures in sites.items()
            for label, row in figures["fidelity"].items()
            for kind in ("synthetic", "ceiling")
        ],
        "second": [
            {"site": site, "set": kind, **figures["fidelity_lite"][kind]}
            for site, figures in sites.items()
            if "fidelity_lite" in figures
            for kind in ("synthetic", "ceiling")
        ],
        "second_name": first.get("fidelity_lite", {}).get("name", ""),
        "diversity": [row for site, figures in sites.items() for row in _diversity(site, figures["diversity"])],
        "utility": {site: figures["utility"] for site, figures in sites.items() if figures["utility"]},
        "privacy": {site: figures["privacy"] for site, figures in sites.items()},
        "questions": _QUESTIONS,
        "membership": _membership(evaluation, sites),
        "utility_chart": _utility_chart(sites),
        "curves": {
            "grey": curve_chart(
                key="grey-chart",
                title="How often each grey occurs",
                description="Share of pixels by grey level, synthetic images and held-out scans, all sites together.",
                across=("black", "white"),
                series=_mean_curves(sites, "grey"),
            ),
            "detail": curve_chart(
                key="detail-chart",
                title="How much detail of each fineness",
                description="Logarithm of mean power by spatial frequency, synthetic images and held-out scans.",
                across=("coarse", "fine"),
                series=_mean_curves(sites, "detail"),
            ),
        },
    }


def not_run_text(reason: str) -> str:
    """Why an experiment was not run, in words; a reason that is none of ours is not repeated."""
    return NotRun(reason).meaning if reason in list(NotRun) else "No reason is given."


def figure_text(figure: dict[str, float | None]) -> str:
    """A figure with its interval in brackets; a dash where it cannot be told."""
    if figure["low"] is None:
        return number_text(figure["value"])
    return f"{number_text(figure['value'])} ({number_text(figure['low'])}–{number_text(figure['high'])})"


def number_text(value: float | None) -> str:
    """Three significant decimals, fewer for large numbers; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def _diversity(site: str, sets: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one site: pairs of each label, of any one label, of two labels."""
    both = ("synthetic", "real")
    rows = [
        {"pairs": f"label {label}", **{kind: sets[kind]["labels"].get(label) for kind in both}}
        for label in sets["synthetic"]["labels"]
    ]
    rows.append({"pairs": "any one label", **{kind: sets[kind]["within"] for kind in both}})
    rows.append({"pairs": "two labels", **{kind: sets[kind]["between"] for kind in both}})
    return [{"site": site, **row} for row in rows]


def _membership(evaluation: dict[str, Any], sites: dict[str, Any]) -> dict[str, Any]:
    """Both attacks by site, and over all sites where shadow models were trained; else the reason why not."""
    shadowed = evaluation.get("membership", {})
    attacked = shadowed.get("sites", {})
    unknown = {"value": None, "low": None, "high": None}
    rows = {
        site: {
            "patients": figures["patients"],
            "loss_auc": figures["privacy"]["loss_attack_auc"],
            "lira_auc": attacked.get(site, {}).get("lira_auc", unknown),
        }
        for site, figures in sites.items()
    }
    if attacked:
        rows["all together"] = attacked["all"]
    return {"rows": rows, **{key: shadowed.get(key) for key in ("shadows", "kind", "reason")}}


def _utility_chart(sites: dict[str, Any]) -> str:
    rows = [
        (f"{site}, {words}", figures["utility"][kind]["auc"], place)
        for site, figures in sites.items()
        if figures["utility"]
        for place, (kind, words) in enumerate((("tstr", "synthetic"), ("trtr", "own scans")))
    ]
    usable = [(name, figure, place) for name, figure, place in rows if figure["value"] is not None]
    return interval_chart(
        key="auc-chart",
        title="AUC of a classifier on held-out patients",
        description="One row for each hospital and training set; the bar is the 95 % interval. "
        "The table of utility holds every value.",
        rows=usable,
    )


def _mean_curves(sites: dict[str, Any], kind: str) -> list[tuple[str, list[float]]]:
    found = []
    for name in ("synthetic", "real"):
        curves = [figures["curves"][name][kind] for figures in sites.values() if figures["curves"][name][kind]]
        if curves:
            found.append((name, [sum(values) / len(values) for values in zip(*curves, strict=True)]))
    return found
