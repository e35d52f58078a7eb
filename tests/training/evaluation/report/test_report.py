"""The report is one file that needs no other."""

import base64
import io
import re

import pytest
from PIL import Image

from training.pipeline.pipeline import Built


@pytest.mark.parametrize(("name", "curves", "answers"), [("digits", 2, 12), ("shapes", 1, 8)])
def test_report_holds_table_curves_and_pictures(
    name: str, curves: int, answers: int, request: pytest.FixtureRequest
) -> None:
    built: Built = request.getfixturevalue(f"{name}_built")
    html = built.report.read_text()
    assert "<h2>Variants</h2>" in html
    assert html.count('class="passed"') == len(built.rows) - 1
    assert not re.search(r'(src|href)="(?!data:)', html)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    # Curves; confusion matrix, bars of the classes and calibration; precision-recall and ROC where
    # answers are ranked; answers; of the data its images, classes and sizes.
    ranked = 2 if name == "digits" else 0
    assert len(pictures) == curves + 3 + ranked + answers + 3
    assert "<h2>Data</h2>" in html
    for measure in ("specificity", "F2", "AUC" if ranked else "IoU"):
        assert f"<th>{measure}</th>" in html
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("L")
        assert image.getextrema()[0] < image.getextrema()[1]
