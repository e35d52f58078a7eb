"""The report is one file that needs no other."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import digits_document
from training.pipeline.pipeline import Built, build
from training.recipes import parse_recipe


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


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</title><script>alert(2)<",
    '" onmouseover="alert(3)',
    "$\\frac{",
    "[bold]\x1b[31m",
    "{{ 7 * 7 }}",
)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_of_somebody_elses_data_stay_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index, name in enumerate(HOSTILE):
        # A separator is the one character of a tag that no folder can have.
        folder = tmp_path / "data" / name.replace("/", "\u2215")
        folder.mkdir(parents=True)
        for number in range(8):
            same = np.random.default_rng(number)  # the same pixels in all classes: they are listed
            pixels = (same if index < 2 else rng).integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}<b>.png")
    recipe = parse_recipe(
        {
            **digits_document(),
            "name": "hostile",
            "data": {"source": "image_folder", "root": str(tmp_path / "data")},
        }
    )
    html = build(
        recipe, tmp_path / "runs", tmp_path / "repository", until="data"
    ).report.read_text()
    assert "onerror=alert(1)" in html
    parser = Elements()
    parser.feed(html)
    assert parser.seen.isdisjoint({"script", "b"})
    assert {name for name in parser.attributes if name.startswith("on")} == set()
    assert parser.sources <= {"data"}


class Elements(HTMLParser):
    """The elements and attributes of a page, and the schemes of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "src":
                self.sources.add(str(value).partition(":")[0])
