"""The report is one file that needs no other."""

import base64
import io
import re

import pytest
from PIL import Image

from training.pipeline import Built


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
    # Curves, confusion matrix, bars of the classes, answers.
    assert len(pictures) == curves + 2 + answers
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("L")
        assert image.getextrema()[0] < image.getextrema()[1]
