"""Figures as files of their own."""

from xml.etree import ElementTree

from jaxforget.report.figures import curves_svg, write_curves_svg
from jaxforget.report.page import write_report
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
    written = sorted((page.parent / "figures").iterdir())
    assert len(written) == page.read_text().count('<svg viewBox="')
    names = {path.name.split("-")[0] for path in written}
    assert names == {"result", "curves", "dynamics", "training"}
    for path in written:
        assert "var(--page)" in path.read_text()
        ElementTree.fromstring(path.read_bytes())
