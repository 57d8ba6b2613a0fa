"""Stage `report`: the page report.html, which shows what is in the run's folder."""

from jaxforget.report.page import write_report
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage


def report(run: Run, fingerprint: str) -> None:
    """Write report.html; it shows whatever there is, so it needs no fingerprint."""
    del fingerprint
    run.say(f"  {write_report(run.folder)}")


STAGE = Stage(
    "report", lambda run: Needs(), report, lambda run: [run.folder / "report.html"], together=False, always=True
)
