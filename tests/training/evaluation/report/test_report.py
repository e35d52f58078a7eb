"""The page of a run: one file that needs no other, and draws from report.json alone."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.repository.manifest import read_manifest
from tests.support.reports import (
    Findings,
    Made,
    classification,
    embedding,
    segmentation,
)
from training.evaluation.report.document import State
from training.evaluation.report.measured import MOST_CLASSES, MOST_PAIRS
from training.evaluation.report.report_file import read_report
from training.evaluation.searched import Point, Searched, Tried
from training.pipeline.pipeline import Built, build
from training.recipes import parse_recipe

MAKERS = {"classification": classification, "segmentation": segmentation, "embedding": embedding}
# Bytes of a page; the docs promise it.
MOST_BYTES = 8 << 20


class Elements(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: list[str] = []
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "src":
                self.sources.append(str(value))
            if name == "href":
                self.links.add(str(value))
            if name == "id":
                self.ids.add(str(value))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(params=MAKERS)
def made(request: pytest.FixtureRequest) -> Made:
    return MAKERS[request.param]()


def test_page_needs_no_script_and_nothing_from_outside(made: Made) -> None:
    page = made.page()
    elements = Elements(page)
    assert elements.seen.isdisjoint({"script", "link", "iframe", "object"})
    assert "style" not in elements.attributes  # its policy would refuse one
    assert {name for name in elements.attributes if name.startswith("on")} == set()
    assert all(source.startswith("data:image/") for source in elements.sources)
    assert {link[1:] for link in elements.links} <= elements.ids
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src &#39;none&#39;; style-src &#39;sha256-{digest}&#39;" in page


def test_page_is_drawn_from_the_document_beside_it(made: Made, tmp_path: Path) -> None:
    page = made.write(tmp_path / "run")
    reread = Made(read_report(page.parent), made.sheet, made.pictures, made.evaluated)
    assert reread.page() == page.read_text()


@pytest.mark.parametrize(
    ("task", "sections"),
    [
        ("classification", {"classes", "calibration", "answers"}),
        ("segmentation", {"classes", "calibration", "answers"}),
        ("embedding", {"pairs", "answers"}),
    ],
)
def test_each_task_gets_its_sections(task: str, sections: set[str]) -> None:
    ids = Elements(MAKERS[task]().page()).ids
    common = {"variants", "training", "compression", "data", "made"}
    assert {one for one in ids if not one.startswith("answer-")} == common | sections


def test_page_answers_first() -> None:
    text = Elements(classification().page()).text
    beginning = text[: text.index("Accuracy against latency")]
    assert "Published as version 3" in beginning
    assert "85.00 %" in beginning
    assert "95 % interval 79.39 to 89.29, 200 test images" in beginning
    assert "0.800 ms" in beginning
    assert "3.10 times as fast as FP32 before pruning in openvino, batch 1 (2.48 ms)" in beginning


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (State(kind="refused", stage="verify", reason="drop 9.0"), "the gate refused it"),
        (State(kind="failed", stage="prune", reason="no <b>"), "Not finished: failed in prune"),
        (State(kind="under way", stage="train"), "Not finished: under way or cut off in train"),
        (State(kind="done", stage="export"), "Done up to export, not published"),
    ],
)
def test_page_of_a_build_that_did_not_publish_says_why(state: State, said: str) -> None:
    page = classification(Findings(state=state, version=None)).page()
    elements = Elements(page)
    assert said in elements.text
    assert state.reason in elements.text
    assert "b" not in elements.seen
    assert ("variants" in elements.ids) == (state.kind == "refused")


def test_all_networks_are_in_the_plot_and_in_its_table() -> None:
    page = classification().page()
    # Two engines with three variants and the network before pruning; two are refused.
    figure = page[page.index('<figure class="plot">') : page.index("</figure>")]
    assert figure.count("<title>") == 8
    assert figure.count(" hollow") == 2 + 1  # and the legend
    table = page[page.index("<tbody>") : page.index("</tbody>")]
    assert table.count("<tr") == 8
    for engine in ("onnxruntime", "openvino"):
        assert f"1: FP32, not pruned in {engine}" in figure or "2: FP32, not pruned" in figure


def test_search_is_drawn_with_its_input_sizes_and_listed() -> None:
    points = [
        Tried(
            point=Point(
                network="lenet5",
                size=(side, side),
                ratio=0.1,
                tilt=0.5,
                variant="int8-s8",
                float_share=0.2,
            ),
            drop=0.01 * n,
            milliseconds=2.0 - 0.5 * n,
        )
        for n, side in enumerate((32, 24, 16))
    ]
    searched = Searched(
        tried=tuple(points),
        chosen=points[1].point,
        bound="drop <= 1 points",
        measured="openvino, batch 1",
        reference=0.9,
        too_slow=4,
        stopped=2,
        refused=3,
        refusal="OpenVINO would compute it wrongly",
    )
    page = classification(Findings(searched=searched)).page()
    point = "lenet5 at 24x24, 10 % (tilt +0.5) pruned, int8-s8, 20 % of the layers in FP32"
    assert f"{point}, 89.00 % on validation images, 1.50 ms" in page
    elements = Elements(page)
    assert "search" in elements.ids
    assert "16x16" in elements.text
    assert "4 more were too slow to win" in elements.text
    assert "Of 2 the training was stopped" in elements.text
    assert "3 more cannot be exported or run: OpenVINO would" in elements.text


def test_a_thousand_classes_stay_a_page() -> None:
    names = [f"class {n}" for n in range(1000)]
    made = classification(Findings(names=names, images=5000, right=0.5))
    classes = made.report.verified.classes if made.report.verified else None
    assert classes is not None
    assert classes.matrix is None
    assert len(classes.confused) == MOST_PAIRS
    recalls = [row.recall or 0.0 for row in classes.rows]
    assert len(recalls) == MOST_CLASSES
    assert recalls == sorted(recalls)
    page = made.page()
    assert "of 1,000 classes" in page
    assert len(page) < MOST_BYTES / 8


def test_pictures_are_bounded_whatever_they_show() -> None:
    made = segmentation()
    noise = np.random.default_rng(0).integers(0, 255, (8, 900, 1600, 3), np.uint8)
    masks = np.random.default_rng(1).integers(0, 4, (8, 900, 1600)).astype(np.uint8)
    pictures = {**made.pictures, "images": noise, "targets": masks, "predictions": masks[::-1]}
    sheet = {"images": noise[:8], "masks": masks[:8]}
    page = Made(made.report, sheet, pictures, made.evaluated).page()
    assert len(page) < MOST_BYTES
    for source in Elements(page).sources:
        image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert max(image.size) <= 1200


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</title><script>alert(2)<",
    '" onmouseover="alert(3)',
    "$\\frac{",
    "[bold]\x1b[31m",
    "{{ 7 * 7 }}",
)


@pytest.mark.parametrize("task", MAKERS)
def test_names_of_classes_stay_text(task: str) -> None:
    page = MAKERS[task](Findings(names=HOSTILE, description=HOSTILE[1])).page()
    elements = Elements(page)
    assert elements.seen.isdisjoint({"script", "b"})
    assert {name for name in elements.attributes if name.startswith("on")} == set()
    assert "\x1b" not in page
    assert HOSTILE[0] in elements.text


def test_names_of_somebody_elses_files_stay_text(tmp_path: Path) -> None:
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
            "name": "hostile",
            "task": "classification",
            "data": {"source": "image_folder", "root": str(tmp_path / "data")},
            "transform": {"resize": [16, 16]},
            "model": {"name": "resnet20_cifar"},
            "train": {
                "epochs": 1,
                "batch_size": 8,
                "optimizer": {"name": "sgd", "lr": 0.05},
            },
        }
    )
    built = build(recipe, tmp_path / "runs", tmp_path / "repository", until="data")
    html = built.report.read_text()
    assert "onerror=alert(1)" in html
    elements = Elements(html)
    assert elements.seen.isdisjoint({"script", "b"})
    assert {name for name in elements.attributes if name.startswith("on")} == set()


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_build_leaves_its_page_and_the_document_behind_it(
    name: str, request: pytest.FixtureRequest
) -> None:
    built: Built = request.getfixturevalue(f"{name}_built")
    report = read_report(built.folder)
    assert report.state == State(kind="published", stage="publish")
    assert report.published is not None
    assert report.verified is not None
    assert report.verified.best is not None
    # The network before pruning was timed in the engines of the FP32 file.
    timed = report.verified.baseline_latency
    assert timed.keys() == {e.engine for e in report.verified.entries if e.variant == "fp32"}
    assert not list((built.folder / "verify").glob("unpruned*"))
    metrics = json.loads((built.folder / "metrics.json").read_text())["verify"]["verification"]
    for result in metrics["variants"]:
        for engine, evidence in result["evidence"].items():
            [one] = [
                one
                for one in report.verified.entries
                if (one.variant, one.engine) == (result["id"], engine)
            ]
            assert one.evidence.model_dump(mode="json") == evidence
    elements = Elements(built.report.read_text())
    assert len(report.verified.answers) == (12 if name == "digits" else 8)
    for answer in report.verified.answers:
        assert answer.name in elements.text
        assert len(answer.best) == (5 if name == "digits" else 0)
    for measure in ("specificity", "F2", "AUC" if name == "digits" else "IoU"):
        assert measure in elements.text
    for source in elements.sources:
        image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("L")
        assert image.getextrema()[0] < image.getextrema()[1]


def test_build_is_compared_with_the_version_before_it(digits_built: Built, tmp_path: Path) -> None:
    repository = digits_built.folder.parent.parent / "repository"
    manifest = read_manifest(repository / "tiny-digits" / "1")
    assert manifest is not None
    found = Findings(
        name="tinydigits",
        repository=tmp_path,
        version=2,
        data_sha256=manifest.provenance.data_sha256,
        machine=next(iter(manifest.variants[0].evidence.values())).latency.machine,
    )
    (tmp_path / "tinydigits").symlink_to(repository / "tiny-digits")
    page = classification(found).page()
    assert "version 1, int8-s8" in page
    assert "times as fast as version 1" in page or "as long as version 1" in page
    other = classification(
        Findings(name="tinydigits", repository=tmp_path, version=2, data_sha256="e" * 64)
    )
    assert other.report.previous is not None
    assert "it was measured on" in other.report.previous.other
    assert "not compared with version 1: it was measured on" in other.page()
