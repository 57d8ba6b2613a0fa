"""`report.html`: what was run, what came of it and how far to trust it, in one file."""

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from jaxforget.errors import UserError
from jaxforget.files import write_text
from jaxforget.report import artefacts, attacks, sections, texts
from jaxforget.report.evidence import evidence
from jaxforget.report.figures import svg_figures, write_figures
from jaxforget.report.run_data import RunData, column, read_runs, side_by_side
from jaxforget.report.tones import figure, model_tones, style
from jaxforget.report.verdict import judge

# Characters that HTML forbids, or that UTF-8 cannot hold: text of models and corpora may contain any.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
HERE = Path(__file__).parent
TITLE = ": what was forgotten</title>"  # ends the title of every page, at its start
START = 4096  # bytes of a file that hold the title of a page, if it is one


def _missing(run: Path) -> dict[str, tuple[str, str]]:
    """Return artefact -> (the missing file, the command that makes it)."""
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


def render(*folders: Path, price: float | None = None) -> str:
    """Return the page of one run, or of several side by side, as HTML.

    The first run's texts are shown in full; of the others, the page shows their figures, curves and completions.

    Args:
      folders: folders of the runs.
      price: dollars of one device for an hour, for the table of costs.

    Raises:
      UserError: a file of a run is malformed; the message names the file and the place.
    """
    runs = read_runs(folders)
    first, summary = runs[0], side_by_side(runs)
    config = first.config[1] if first.config else {}
    manifest, metrics = first.manifest or {}, first.metrics or {}
    attacking = frozenset(metric for folder in folders for metric in artefacts.read_attack_metrics(folder))
    suites = {key: suite for run in reversed(runs) for key, suite in run.suites.items()}
    models = artefacts.model_order(row.model for row in summary)
    students = [column(run, "unlearned", runs) for run in runs]
    tones = model_tones([*artefacts.MODEL_ORDER, *models, *students])
    script = (HERE / "script.js").read_text(encoding="utf-8")
    alone = len(runs) == 1
    context: dict[str, Any] = {
        "name": first.name if alone else " and ".join(run.name for run in runs),
        "verdicts": [(run.name, judge(run.summary), _three(run)) for run in runs],
        "facts": sections.facts(config, manifest, metrics),
        "method": sections.method({**config, "retain.path": sections.near(config.get("retain.path"))}),
        "target": sections.near(config.get("corpus.path")),
        "headline": sections.headline(first.summary or (), first.curve or ()) if alone else [],
        "scatter": sections.scatter(summary, tones),
        "curves": sections.curves(_curves(runs), summary),
        "training": sections.training(first.metrics),
        "dynamics": sections.dynamics(first.dynamics),
        "completions": texts.completions(_completions(runs), first.anchors.entries if first.anchors else ()),
        "passage": texts.passage(first.passage),
        "heat": texts.heat(first.passage),
        "questions": texts.questions(first.questions),
        "attacks": attacks.attacks(summary, attacking),
        "audit": attacks.audit(first.audit),
        # Attacks have their own table, which compares each with the control.
        "evidence": None if first.summary is None else evidence(summary, suites, attacking),
        "anchors": sections.anchors(first.anchors, first.diagnosis),
        "cost": [(run.name, sections.cost(run.manifest or {}, run.metrics or {}, price)) for run in runs],
        "configs": [(run.name, run.config[0] if run.config else None) for run in runs],
        "versions": sections.versions(manifest),
        "has_manifest": first.manifest is not None,
        "outdated": any(sections.outdated(run.manifest or {}) for run in runs),
        "missing": _missing(first.folder),
        "folder": shlex.quote(str(first.folder)),
        "svg_style": Markup(style()),
        "script": Markup(script),
        # The page's own script is the only one that may run: text that became a script would not have its hash.
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "tone": lambda model: tones.get(model, "other1")}
    return _FORBIDDEN.sub("\ufffd", environment.get_template("template.html").render(context))


def _three(run: RunData) -> list[tuple[str, str, str]]:
    """Return (quantity, before, after) of the three quantities of a run, for the table of several runs."""
    cards = sections.headline(run.summary or (), run.curve or ())
    return [(card["name"], card["before"], card["after"]) for card in cards]


def _curves(runs: Sequence[RunData]) -> dict[str, Sequence[artefacts.CurveRow]] | None:
    """Return the evaluations during training by student; None where no run has any."""
    found = {column(run, "unlearned", runs): run.curve for run in runs if run.curve is not None}
    return found or None


def _completions(runs: Sequence[RunData]) -> list[artefacts.Completion] | None:
    """Return the first run's completions with the unlearned model's of every other run beside them."""
    if runs[0].completions is None or len(runs) == 1:
        return runs[0].completions
    merged = {item.prompt: {m: t for m, t in item.completions.items() if m != "unlearned"}
              for item in runs[0].completions}  # fmt: skip
    for run in runs:
        for item in run.completions or ():
            if item.prompt in merged and "unlearned" in item.completions:
                merged[item.prompt][column(run, "unlearned", runs)] = item.completions["unlearned"]
    return [artefacts.Completion(prompt, texts) for prompt, texts in merged.items()]


def write_report(
    run: str | Path,
    *others: str | Path,
    out: Path | None = None,
    figures: bool = False,
    price: float | None = None,
) -> Path:
    """Write the page of a run, or of several side by side, atomically.

    In place of a missing artefact the page names the command that makes it.

    Args:
      run, others: folders of runs.
      out: file to write; None writes report.html, or comparison.html for several runs, into the first folder.
      figures: also write every figure as SVG and PNG into the folder figures/ beside the page.
      price: dollars of one device for an hour; the page then shows what the run cost.

    Returns:
      The path of the page.

    Raises:
      UserError: a path is no folder of a run, an artefact in it is malformed, or a file that is no page or figure of
        this program would be replaced.
    """
    folders = [Path(place) for place in (run, *others)]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such run; name the folder of one, such as runs/demo")
        if not any((folder / name).is_file() for name in ("config.yaml", "manifest.json")):
            raise UserError(f"{folder}: holds no config.yaml, so it is no run's folder; give another")
    path = out or folders[0] / ("comparison.html" if others else "report.html")
    if out is not None or others:
        _check_replaceable(path)
    page = render(*folders, price=price)
    drawn = svg_figures(page, path.parent / "figures") if figures else {}
    write_text(path, page)
    write_figures(drawn)
    return path


def _check_replaceable(path: Path) -> None:
    """Refuse a name that is not a page's, and a file that is not a page of this program."""
    if path.suffix != ".html":
        raise UserError(f"{path}: is no name of a page; name a file that ends in .html")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file that ends in .html")
    if path.exists():
        with path.open("rb") as file:
            start = file.read(START)
        if TITLE.encode() not in start:
            raise UserError(f"{path}: is no page of jaxforget, and the page would replace it; name another file")
