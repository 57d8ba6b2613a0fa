"""Figures as files of their own: the curves of a run for a README or a slide, and every figure of a page."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxforget.errors import UserError
from jaxforget.files import write_text
from jaxforget.report.plots import quantity_chart
from jaxforget.report.tones import TONES, light_style, style

# The renderer of PNG files draws no text at all in a font that is not installed, so one of these is chosen.
FONTS = ("Helvetica Neue", "Arial", "Segoe UI", "Liberation Sans", "DejaVu Sans", "Noto Sans", "Roboto")
# The start of every SVG document that `_open` makes.
OPENING = re.compile(r'<svg xmlns="[^"]+" viewBox="0 0 \d+ \d+" width="\d+" height="\d+"><style>')
ZOOM = 3  # pixels of a PNG for a pixel of the figure


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


def svg_figures(page: str, folder: Path) -> dict[Path, str]:
    """Return every figure of a page as an SVG document, by the file for it: SECTION-NUMBER.svg in `folder`.

    Args:
      page: HTML of the page; a figure is an `<svg role="img">` in a section with an id.

    Raises:
      UserError: a file of such a name, or a PNG in its place, is no figure of this program.
    """
    found = {}
    for section, content in re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.S):
        for number, drawn in enumerate(re.findall(r"<svg viewBox.*?</svg>", content, re.S), start=1):
            width, height = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', drawn).groups()
            path = folder / f"{section}-{number}.svg"
            inner = drawn.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
            found[path] = f"{_open(int(width), int(height))}{inner}</svg>\n"
    for path in found:
        # A PNG has no mark of its own; the SVG beside it tells that this program drew both.
        drawn = path.is_file() and OPENING.match(path.read_text(encoding="utf-8", errors="replace"))
        for other in (path, path.with_suffix(".png")):
            if other.exists() and not drawn:
                raise UserError(f"{other}: is no figure of jaxforget, and one would replace it; move it elsewhere")
    return found


def write_figures(documents: Mapping[Path, str]) -> None:
    """Write SVG documents to their files, and a PNG beside each.

    The PNG files have the light colours. They are left out if the package resvg-py is not installed.

    Raises:
      UserError: PNG files cannot be drawn because this machine has no font.
    """
    draws = importlib.util.find_spec("resvg_py") is not None
    for path, document in documents.items():
        write_text(path, document)
        if draws:
            path.with_suffix(".png").write_bytes(png(document))


def png(document: str) -> bytes:
    """Return an SVG document of this module as a PNG in the light colours.

    Raises:
      UserError: this machine has none of `FONTS`, so that the figure would have no text.
    """
    import resvg_py

    text = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><text y="9" font-family="{}">M</text></svg>'
    empty = resvg_py.svg_to_bytes(svg_string=text.replace("M", ""))
    font = next((name for name in FONTS if resvg_py.svg_to_bytes(svg_string=text.format(name)) != empty), None)
    if font is None:
        raise UserError(
            f"PNG figures need one of the fonts {', '.join(FONTS)}; install one (Debian: apt-get install "
            "fonts-dejavu-core)"
        )
    plain = document.replace(style(), light_style()).replace("var(--page)", TONES["page"][0])
    return resvg_py.svg_to_bytes(svg_string=plain, background=TONES["page"][0], zoom=ZOOM, sans_serif_family=font)


def _open(width: int, height: int) -> str:
    """Return the opening of an SVG document with its colours and its background."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{style()}</style>"
        f'<rect width="{width}" height="{height}" rx="6" fill="var(--page)"/>'
    )
