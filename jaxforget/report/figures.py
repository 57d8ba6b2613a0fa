"""Figures as files of their own: the curves of a run for a README or a slide, and every figure of a page."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxforget.files import write_text
from jaxforget.report.plots import quantity_chart
from jaxforget.report.tones import style


def curves_svg(rows_by_model: Mapping[str, Sequence[Mapping[str, float | None]]]) -> str:
    """Return one SVG document of three panels: familiarity, retained and perplexity against steps.

    Args:
      rows_by_model: a model's rows as in evals/curve.json ("step", "familiarity", "retained", "perplexity"; all but
        the step may be None). A model of one row is drawn as a reference line.
    """
    wide, high, panels = 360, 220, []
    for name in ("familiarity", "retained", "perplexity"):
        drawn = quantity_chart(name, rows_by_model, wide, high)
        if drawn:
            panels.append((name, drawn))
    width, height = wide * max(len(panels), 1) + 16, high + 38
    out = [_open(width, height)]
    for i, (name, drawn) in enumerate(panels):
        x = 8 + i * wide
        out.append(f'<text class="title" x="{x + 10}" y="22">{name.capitalize()}</text>')
        out.append(drawn.replace("<svg ", f'<svg x="{x}" y="32" width="{wide}" height="{high}" ', 1))
    return "".join([*out, "</svg>\n"])


def svg_document(panels: Sequence[str], width: int, height: int) -> str:
    """Return one SVG document of figures side by side, each an `<svg>` of `width` by `height` pixels."""
    out = [_open(width * max(len(panels), 1), height)]
    for i, drawn in enumerate(panels):
        out.append(drawn.replace("<svg ", f'<svg x="{i * width}" y="0" width="{width}" height="{height}" ', 1))
    return "".join([*out, "</svg>\n"])


def write_curves_svg(rows_by_model: Mapping[str, Sequence[Mapping[str, float | None]]], path: str | Path) -> Path:
    """Write `curves_svg` to `path`, atomically, and return the path."""
    write_text(path, curves_svg(rows_by_model))
    return Path(path)


def write_figures(page: str, folder: Path) -> list[Path]:
    """Write every figure of a page as an SVG document of its own: SECTION-NUMBER.svg in `folder`.

    Args:
      page: HTML of the page; a figure is an `<svg role="img">` in a section with an id.
    """
    written = []
    for section, content in re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.S):
        for number, drawn in enumerate(re.findall(r"<svg viewBox.*?</svg>", content, re.S), start=1):
            width, height = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', drawn).groups()
            path = folder / f"{section}-{number}.svg"
            inner = drawn.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
            write_text(path, f"{_open(int(width), int(height))}{inner}</svg>\n")
            written.append(path)
    return written


def _open(width: int, height: int) -> str:
    """Return the opening of an SVG document with its colours and its background."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{style()}</style>"
        f'<rect width="{width}" height="{height}" rx="6" fill="var(--page)"/>'
    )
