"""Table, ratios and builds of benchmarks.job, with subjects and a builder that are made up."""

import contextlib
import json
import math
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from benchmarks.job.building import BuildFailed, Workshop
from benchmarks.job.masks import MaskCheck, facts_of, png_of
from benchmarks.job.measuring import Figures, right_of
from benchmarks.job.subjects import FP32, INT8, INT8_IN_TRITON, SEARCHED, Row, Served
from benchmarks.job.table import BARS, document, limits, ratios, table, write
from benchmarks.job.works import WORKS, Load, Work
from benchmarks.serving.speed.peers import PeerModel, write_triton
from benchmarks.serving.speed.rounds import Case, Length, take_turns
from benchmarks.serving.speed.runner import answers, decode
from loadtest.wire.messages import INFER
from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as vision
from serving.base.evaluation import Estimate
from serving.images.postprocess import palette_png
from serving.images.preprocess import load_image
from serving.repository.manifest import EvalTransform
from training.pipeline.searching.space import Space
from training.recipes import load_recipe
from training.recipes.compress import Search

LENGTH = Length(seconds=1.0, answers=1, longest=1.0)
RIGHT = Estimate(value=0.9, low=0.88, high=0.92, n=1000)
PARTS = {"decode": 0.001, "engine": 0.004, "answer": 0.0}


def figures(rate: float, cpu: float = 0.006, accuracy: Estimate = RIGHT) -> Figures:
    return Figures(500, rate, 5.0, 9.0, cpu, 0.2, 0.01, accuracy)


def row(name: str, *found: Figures, parts: dict[str, float] | None = None, failed: str = "") -> Row:
    rounds = iter(found)

    def run(seconds: float) -> Figures:
        if failed:
            raise RuntimeError(failed)
        return next(rounds)

    served = Served("h:1", name, failed, "int8-u8", "openvino", 1.25, 5400.0, parts)
    return Row(Case("W, 1 image a call", name, run), served)


def play(*rows: Row, rounds: int = 2) -> None:
    take_turns([row.case for row in rows], rounds, LENGTH, lambda turn, case: None)


def test_each_subject_has_its_figures_and_an_absent_triton_is_a_hole() -> None:
    ours = row(INT8, figures(100), figures(120), parts=PARTS)
    absent = row(INT8_IN_TRITON, failed="Triton did not start:\nno python | 3.11")
    play(absent, ours)
    head, _, first, second, *_ = table([absent, ours], "2 cores").splitlines()
    assert {line.count("|") for line in (head, first, second)} == {13}
    assert f"| {INT8_IN_TRITON} | Triton did not start: no python / 3.11 |" in first
    assert f"| {INT8} | int8-u8, openvino | 110 (100 to 120) | 6.000 (6.000 to 6.000) |" in second
    # 6 ms an image are 1.67 hours a million.
    assert "| 1.67 | 5.00 (5.00 to 5.00) | 9.0 (9.0 to 9.0) |" in second
    assert "| 90.0 [88.0, 92.0] of 1,000 | 1.25 | 90 min | 1.0% |" in second


def test_bars_are_ratios_within_rounds_and_a_missed_one_stands_out() -> None:
    # The machine is half as fast in the second round.
    a = row(FP32["onnxruntime"], figures(100), figures(50))
    worse = RIGHT.model_copy(update={"value": 0.885})
    d = row(SEARCHED, figures(610, accuracy=worse), figures(290, accuracy=worse), parts=PARTS)
    b, c = row(INT8_IN_TRITON, figures(100), figures(100)), row(INT8, figures(105), figures(105))
    play(a, b, c, d)
    by_bar = {ratio.bar: ratio for _, ratio in ratios([a, b, c, d])}
    assert [bar.name for bar in by_bar] == [INT8, SEARCHED]
    assert by_bar[BARS[1]].rate == pytest.approx((6.1 + 5.8) / 2)
    assert by_bar[BARS[1]].points == pytest.approx(-1.5)
    lines = table([a, b, c, d], "").splitlines()
    [missed] = [line for line in lines if f"{INT8} ÷ " in line]
    [missed_too] = [line for line in lines if f"{SEARCHED} ÷ " in line]
    assert "| **1.05** | 1.1 | 1.00 | +0.00 |" in missed
    assert "| **5.95** | 6 | 1.00 | -1.50 |" in missed_too


def test_parts_of_our_cpu_come_with_the_largest_first_and_the_rest_is_the_wire() -> None:
    ours = row(INT8, figures(100), figures(100), parts=PARTS)
    play(ours)
    assert limits(ours)["wire"] == pytest.approx(0.001)
    told = "engine 4.000 ms (67%), decode 1.000 ms (17%), wire 1.000 ms (17%), answer 0.000 ms (0%)"
    assert told in table([ours], "")


def test_a_round_beside_other_work_does_not_count_where_others_do() -> None:
    disturbed = replace(figures(10), others=0.5)
    ours = row(INT8, disturbed, figures(100))
    play(ours)
    assert "| 100 | 6.000 |" in table([ours], "")


def test_all_figures_are_in_the_files_and_nan_is_null(tmp_path: Path) -> None:
    ours = row(INT8, figures(100, cpu=math.nan), figures(100), parts=PARTS)
    failing = row(SEARCHED, failed="searched: no network keeps it")
    play(ours, failing)
    text = write([ours, failing], "note", tmp_path)
    assert (tmp_path / "job.md").read_text() == text
    raw = json.loads((tmp_path / "job.json").read_text())
    assert raw == document([ours, failing], "note")
    first, second = raw["rows"]
    assert first["rounds"][0]["cpu"] is None
    assert first["rounds"][1]["accuracy"]["n"] == 1000
    assert first["served"]["seconds"] == 5400
    assert second["rounds"][0] == {"reason": "searched: no network keeps it"}


def test_an_image_that_was_asked_for_twice_counts_once(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for number in range(50):
        (tmp_path / "cat" / f"{number}.jpg").touch()
    phases = (
        {"accuracy": {"checked": 150, "right": 120}},
        {"accuracy": {"checked": 50, "right": 40}},
    )
    found = right_of(phases, tmp_path)
    assert (found.value, found.n) == (0.8, 50)
    with pytest.raises(RuntimeError, match="no answer was compared"):
        right_of(({},), tmp_path)


class Builder:
    """Stands in for `convserve build`: notes its commands and ends with the statuses it is told."""

    def __init__(self, *statuses: int) -> None:
        self.commands: list[list[str]] = []
        self._statuses = list(statuses)

    def run(self, command: Sequence[str], *, stdout: Any, **_: Any) -> Any:
        self.commands.append(list(command))
        stdout.write("convserve build: the gate failed\n")
        runs = Path(command[command.index("--out") + 1])
        for stage in ("data", "train"):
            (runs / "vit" / stage).mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, self._statuses.pop(0))


@pytest.fixture
def work() -> Work:
    return replace(WORKS["vit"], images=None)  # type: ignore[arg-type]


def test_a_build_is_done_once_and_its_time_is_kept(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(0, 1, 0, 1)
    monkeypatch.setattr(subprocess, "run", builder.run)
    with pytest.raises(BuildFailed, match="int8: convserve build: the gate failed"):
        Workshop(work, tmp_path / "vit", ["train.epochs=1"]).int8()
    for _ in range(2):
        # Done now, though nothing is published by a builder that is made up.
        with pytest.raises(FileNotFoundError):
            Workshop(work, tmp_path / "vit", ["train.epochs=1"]).int8()
    training, failed, int8 = builder.commands[:3]
    assert training[-2:] == ["--until", "train"]
    # Behind the overrides, which say more about pruning.
    assert failed == int8
    assert int8[-4:] == ["--set", "prune=null", "--set", "search=null"]
    [file] = (tmp_path / "vit").glob("*/built.json")
    record = json.loads(file.read_text())
    assert record["done"] == ["training", "int8"]
    assert record["seconds"].keys() == {"training", "int8"}
    # Another recipe begins anew, beside what the former one took hours for.
    with pytest.raises(BuildFailed):
        Workshop(work, tmp_path / "vit", ["train.epochs=2"]).int8()
    assert json.loads(file.read_text()) == record


def test_a_search_begins_with_the_training_that_is_there(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", Builder(0, 0, 0).run)
    workshop = Workshop(work, tmp_path / "vit", [])
    for build in (workshop.int8, workshop.searched):
        with pytest.raises(FileNotFoundError):
            build()
    # Where the search looks for it.
    recipe = load_recipe(work.recipe)
    trained = Space(recipe, recipe.search or Search()).own.trained
    [own] = (tmp_path / "vit").glob(f"*/runs/vit-searched/search/{trained}")
    assert (own / "vit-searched/train").is_dir()


@pytest.mark.parametrize("name", WORKS)
@pytest.mark.parametrize("quick", [False, True])
def test_recipes_can_be_read_in_both_forms(name: str, quick: bool) -> None:
    work = WORKS[name]
    recipe = load_recipe(work.recipe, work.quick if quick else ())
    assert recipe.name == name
    assert (recipe.prune is None) == (work.bound == "")
    assert str(Load(1, 32)) == "1 image a call, 32 callers"


@pytest.mark.parametrize("filter_name", ["area", "bicubic"])
def test_peers_see_nearly_the_pixels_that_we_do(filter_name: Any) -> None:
    import cv2

    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (9, 12, 3), np.uint8)
    image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
    file = cv2.imencode(".jpg", image)[1].tobytes()
    transform = EvalTransform(resize=128, crop=(112, 112), filter=filter_name)
    model = PeerModel("m", "numpy", None, "logits", transform, ("a", "b", "c"))
    pixels, size = decode(file, model.settings())
    ours = load_image(file, transform).pixels
    assert size == (640, 480)
    assert np.abs(pixels.astype(int) - ours).mean() < 2


def test_peers_send_masks_of_the_size_of_their_images() -> None:
    import cv2

    file = cv2.imencode(".jpg", np.zeros((60, 80, 3), np.uint8))[1].tobytes()
    model = PeerModel("m", "numpy", None, "segment", EvalTransform(resize=(30, 40)), ("a", "b"))
    mask = np.zeros((1, 30, 40), np.uint8)
    mask[:, :, 20:] = 1
    inputs = np.array([[file]], dtype=object)
    [[png]] = answers(model.settings(), lambda images: mask, inputs)
    found = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found.shape == (60, 80)
    assert (found == (np.arange(80) >= 40)).all()


def test_triton_makes_labels_of_logits_by_the_names_of_the_classes(tmp_path: Path) -> None:
    model = PeerModel("m", "numpy", None, "logits", EvalTransform(resize=(8, 8)), ("cat", "dog"))
    config = write_triton(tmp_path, model)
    assert 'name: "logits" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt"' in config
    assert (tmp_path / "m" / "labels.txt").read_text() == "cat\ndog\n"
    assert (tmp_path / "m" / "1" / "runner.py").is_file()


@contextlib.contextmanager
def masks_from(answer: Callable[[bytes], bytes]) -> Iterator[str]:
    """A server of the Open Inference Protocol that answers any image file with a PNG; its url."""

    def infer(content: bytes, context: object) -> bytes:
        [file] = oip.ModelInferRequest.FromString(content).raw_input_contents
        png = answer(file[4:])
        raw = len(png).to_bytes(4, "little") + png
        return oip.ModelInferResponse(raw_output_contents=[raw]).SerializeToString()

    server = grpc.server(ThreadPoolExecutor(1))
    method = grpc.unary_unary_rpc_method_handler(infer)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {INFER: method})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_masks_are_held_against_the_truth_beside_a_load(tmp_path: Path) -> None:
    files, masks, pixels = tmp_path / "images", tmp_path / "masks", {}
    for folder in (files, masks):
        folder.mkdir()
    for number in range(2):
        # Value 9 does not count.
        truth = np.full((4, 4), number, np.uint8)
        truth[0] = 9
        Image.fromarray(truth).save(masks / f"{number}.png")
        (files / f"{number}.jpg").write_bytes(b"image %d" % number)
        pixels[b"image %d" % number] = truth
    asked = threading.Semaphore(0)

    def right(file: bytes) -> bytes:
        asked.release()
        return palette_png(np.where(pixels[file] == 9, 0, pixels[file]).astype(np.uint8))

    facts = facts_of("m", vision_task=False)
    with masks_from(right) as url, MaskCheck(url, facts, files, masks, 2, 9) as check:
        for _ in range(5):
            assert asked.acquire(timeout=30)
    found = check.accuracy()
    assert (found.value, found.n) == (1.0, 2)
    assert check.images >= 4
    # Of a load that is over at once all images are compared, too.
    with masks_from(right) as url, MaskCheck(url, facts, files, masks, 2, 9) as check:
        pass
    assert (check.accuracy().n, check.images < 4) == (2, True)

    small = palette_png(np.zeros((2, 2), np.uint8))
    ended = threading.Event()

    def wrong(file: bytes) -> bytes:
        ended.set()
        return small

    with (
        masks_from(wrong) as url,
        pytest.raises(RuntimeError, match=r"a mask of \(2, 2\), expected \(4, 4\)"),
        MaskCheck(url, facts, files, masks, 2, 9),
    ):
        assert ended.wait(timeout=30)


def test_a_mask_is_found_in_the_answers_of_both_services() -> None:
    png = palette_png(np.ones((2, 2), np.uint8))
    ours = vision.SegmentResponse(results=[vision.Segmentation(palette_png=png)])
    raw = len(png).to_bytes(4, "little") + png
    triton = oip.ModelInferResponse(raw_output_contents=[raw])
    assert png_of("Segment", ours.SerializeToString()) == png
    assert png_of("ModelInfer", triton.SerializeToString()) == png
    assert facts_of("m", vision_task=True).task == "segmentation"
    failed = vision.SegmentResponse(
        results=[vision.Segmentation(status=vision.Status(code=3, message="not an image"))]
    )
    with pytest.raises(ValueError, match="not an image"):
        png_of("Segment", failed.SerializeToString())
