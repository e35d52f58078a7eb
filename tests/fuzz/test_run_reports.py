"""Whatever stands in a run's report.json is put beside another run, or refused in one line."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings

from tests.fuzz.changed import changed, check_line
from tests.support.mutation import changed_json
from tests.support.reports import classification, embedding, segmentation
from training.errors import BuildError
from training.evaluation.report.comparison import comparison_page
from training.evaluation.report.report import report_page
from training.evaluation.report.report_file import REPORT_FILE, read_report

REPORTS = [make().report for make in (classification, segmentation, embedding)]
DOCUMENTS = [report.model_dump(mode="json") for report in REPORTS]
# Bytes of a page without pictures.
MOST_BYTES = 4 << 20


def with_accuracy(value: float) -> bytes:
    document = json.loads(json.dumps(DOCUMENTS[0]))
    for key in ("value", "low", "high"):
        document["verified"]["entries"][0]["evidence"]["accuracy"][key] = value
    return json.dumps(document).encode()


@settings(settings.get_profile("fuzz"))
@given(changed(DOCUMENTS, changed_json))
@example(with_accuracy(1e308))
@example(with_accuracy(-1e308))
@example(json.dumps({**DOCUMENTS[0], "recipe": {"a": "\ud800"}}).encode())
@example(json.dumps({**DOCUMENTS[0], "training": [{}] * 1000}).encode())
@example(json.dumps({**DOCUMENTS[0], "verified": {"skipped": {"k" * 5000: []}}}).encode())
def test_a_report_is_shown_or_refused(text: bytes) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / REPORT_FILE).write_bytes(text)
        try:
            found = read_report(folder)
        except BuildError as error:
            check_line(error)
            return
    page = comparison_page([("theirs", found), ("ours", REPORTS[0])])
    assert len(page.encode()) < MOST_BYTES
    assert len(report_page(found).encode()) < MOST_BYTES
