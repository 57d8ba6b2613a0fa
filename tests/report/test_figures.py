"""Figures as files of their own."""

import struct
import zlib
from xml.etree import ElementTree

import pytest

from jaxforget.errors import UserError
from jaxforget.report import figures
from jaxforget.report.figures import curves_svg, png, svg_document, write_curves_svg
from jaxforget.report.page import write_report
from jaxforget.report.plots import Line, chart
from jaxforget.report.tones import TONES
from tests.report.synthetic import write_run
from tests.report.test_plots import ROWS


def test_the_standalone_curves_are_one_xml_document_whatever_the_names(tmp_path):
    path = write_curves_svg({'<a href="x">&\x00\ud800': [ROWS[0]], "unlearned": ROWS}, tmp_path / "docs/curves.svg")
    root = ElementTree.fromstring(path.read_bytes())
    text = " ".join(root.itertext())
    assert all(name in text for name in ["Familiarity", "Retained", "Perplexity", '<a href="x">'])
    assert "http" not in curves_svg({"unlearned": ROWS}).replace("http://www.w3.org/2000/svg", "")
    ElementTree.fromstring(curves_svg({}))


def test_every_figure_of_the_page_is_written_as_a_document(tmp_path):
    page = write_report(write_run(tmp_path), figures=True)
    written = sorted((page.parent / "figures").glob("*.svg"))
    drawn = sorted((page.parent / "figures").glob("*.png"))
    assert [path.stem for path in drawn] == [path.stem for path in written]
    assert len(written) == page.read_text().count('<svg viewBox="')
    names = {path.name.split("-")[0] for path in written}
    assert names == {"result", "curves", "dynamics", "training"}
    for path in written:
        assert "var(--page)" in path.read_text()
        ElementTree.fromstring(path.read_bytes())


def test_a_png_has_its_text_and_the_light_colours():
    """A renderer that lacks a font, or does not know custom properties, would leave text or colours out silently."""
    line = Line(((0, 0.0), (1, 1.0)), "unlearned", "a long label of the line")
    svg = svg_document([chart([line], [(0, "0"), (1, "1")], [0.0, 1.0], described="")], 360, 220)
    image = png(svg)
    width, height, pixels = read_png(image)
    assert (width, height) == (3 * 360, 3 * 220)
    assert colour("unlearned") in pixels
    assert colour("page") in pixels
    beside = {pixels[y * width + x] for y in range(height) for x in range(3 * 250, width)}
    assert colour("unlearned") in beside, "the label is written beside the plot"
    assert (0, 0, 0) not in pixels, "no element falls back to black"


def test_a_machine_without_fonts_is_told_so(monkeypatch):
    monkeypatch.setattr(figures, "FONTS", ("No Such Font",))
    with pytest.raises(UserError, match="PNG figures need one of the fonts No Such Font"):
        png(svg_document([], 9, 9))


def test_without_the_renderer_only_svg_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    page = write_report(write_run(tmp_path), figures=True)
    assert {path.suffix for path in (page.parent / "figures").iterdir()} == {".svg"}


def colour(tone):
    """Return the light colour of a tone as (red, green, blue)."""
    return tuple(bytes.fromhex(TONES[tone][0][1:]))


def read_png(data):
    """Return (width, height, [(red, green, blue)]) of a PNG with 8 bits a channel, by its definition."""
    width, height = struct.unpack(">II", data[16:24])
    assert data[24:26] == b"\x08\x06", "8 bits, red green blue alpha"
    packed, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    raw, line = zlib.decompress(packed), 4 * width
    above, pixels = bytearray(line), []
    for y in range(height):
        kind, row = raw[y * (line + 1)], bytearray(raw[y * (line + 1) + 1 : (y + 1) * (line + 1)])
        for i in range(line):
            a, b, c = (row[i - 4] if i > 3 else 0), above[i], (above[i - 4] if i > 3 else 0)
            p = a + b - c
            paeth = min((a, b, c), key=lambda value: abs(p - value))
            row[i] = (row[i] + (0, a, b, (a + b) // 2, paeth)[kind]) % 256
        pixels += [tuple(row[i : i + 3]) for i in range(0, line, 4)]
        above = row
    return width, height, pixels
