"""`report.html`: what was run, what came of it and how far to trust it, in one file."""

import re
import shlex
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jaxforget.errors import UserError
from jaxforget.files import write_text
from jaxforget.report import artefacts, attacks, sections
from jaxforget.report.plots import figure, style, tone_of

# Characters that HTML forbids, or that UTF-8 cannot hold: text of models and corpora may contain any.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def _missing(run: Path) -> dict[str, tuple[str, str]]:
    """Artefact -> (what is not there, the command that makes it)."""
    folder = shlex.quote(str(run))
    return {
        "curve": ("evals/curve.json", f"jaxforget forget {folder}"),
        "dynamics": ("evals/dynamics.json", f"jaxforget forget {folder}"),
        "metrics": ("metrics.jsonl", f"jaxforget forget {folder}"),
        "completions": ("evals/completions.json", f"jaxforget eval {folder}"),
        "passage": ("evals/passage.json", f"jaxforget eval {folder}"),
        "summary": ("evals/summary.json", f"jaxforget eval {folder}"),
        "config": ("config.yaml", "jaxforget run CONFIG"),
        "manifest": ("manifest.json", f"jaxforget run {folder}"),
    }


def render(run: Path) -> str:
    """The page of the run in folder `run`, as HTML.

    Raises:
        UserError: an artefact is malformed; the message names the file and the place.
    """
    curve, summary = artefacts.read_curve(run), artefacts.read_summary(run)
    metrics, manifest = artefacts.read_metrics(run), artefacts.read_manifest(run)
    config = artefacts.read_config(run)
    attacking = artefacts.read_attack_metrics(run)
    # Attacks have a table of their own, where each stands beside the control.
    others = None if summary is None else tuple(row for row in summary if row.metric not in attacking)
    context: dict[str, Any] = {
        "name": run.resolve().name,
        "facts": sections.facts(config[1] if config else {}, manifest or {}, metrics or {}),
        "headline": sections.headline(summary or (), curve or ()),
        "curves": sections.curves(curve, summary or ()),
        "training": sections.training(metrics),
        "dynamics": sections.dynamics(artefacts.read_dynamics(run)),
        "completions": sections.completions(artefacts.read_completions(run)),
        "passage": sections.passage(artefacts.read_passage(run)),
        "attacks": attacks.attacks(summary or (), attacking),
        "audit": attacks.audit(artefacts.read_audit(run)),
        "evidence": sections.evidence(others),
        "config": config[0] if config else None,
        "stages": sections.stages(manifest or {}),
        "versions": sections.versions(manifest or {}),
        "has_manifest": manifest is not None,
        "outdated": sections.outdated(manifest or {}),
        "missing": _missing(run),
        "folder": shlex.quote(str(run)),
        "svg_style": Markup(style()),
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": figure, "tone": tone_of}
    return _FORBIDDEN.sub("\ufffd", environment.get_template("template.html").render(context))


def write_report(run: str | Path) -> Path:
    """Writes `report.html` into the run's folder, atomically, and returns its path.

    A missing artefact leaves a note of the command that makes it; the rest of the page stands.

    Raises:
        UserError: `run` is no folder, or an artefact in it is malformed.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run}: no such run; name the folder of one, such as runs/demo")
    path = run / "report.html"
    write_text(path, render(run))
    return path
