"""The picture of a comparison: forgetting against retained knowledge, with intervals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxforget.files import write_text
from jaxforget.report.figures import svg_document
from jaxforget.report.plots import trade_off
from jaxforget.report.tones import model_tones

WIDTH, HEIGHT = 460, 420
PANELS = {
    "familiarity": "knowledge of the target (lower is better)",
    "margin": "margin of the right answer, nats (0 is the control's)",
}


def write_picture(path: Path, result: Mapping[str, Any]) -> None:
    """Write compare.svg: a panel for familiarity and, where there is data, one for the margin.

    Args:
      path: the file.
      result: the content of compare.json.
    """
    write_text(path, picture(result))


def picture(result: Mapping[str, Any]) -> str:
    """Return the SVG document. A point is a mean over seeds; its bars are one standard deviation to each side.

    The axis of retained knowledge need not begin at 0.
    """
    models = {"base": result["base"], "control": result["control"], **result["methods"]}
    tones = model_tones(models)
    panels = []
    for measure, label in PANELS.items():
        shown = {
            name: (summary[measure], summary["retained"] or summary["perplexity"])
            for name, summary in models.items()
            if summary is not None and summary[measure] is not None
        }
        shown = {name: pair for name, pair in shown.items() if pair[1] is not None}
        if shown:
            kept = "retained knowledge (higher is better)"
            if any(models[name]["retained"] is None for name in shown):
                kept = "perplexity (lower is better)"
            panels.append(
                trade_off(
                    {name: (x["mean"], y["mean"]) for name, (x, y) in shown.items()},
                    tones,
                    WIDTH,
                    HEIGHT,
                    intervals={name: (x["std"], y["std"]) for name, (x, y) in shown.items()},
                    fit_y=True,
                    labels=(label, kept),
                )
            )
    return svg_document(panels, WIDTH, HEIGHT)
