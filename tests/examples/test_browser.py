"""The page of examples/browser, in Chromium, behind the Envoy of its own configuration."""

import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from protos.gen import vision_pb2 as pb
from tests.examples.conftest import EXAMPLES, SECONDS
from tests.helm.tools import free_ports, program
from tests.support.process import ServerProcess

pytestmark = pytest.mark.slow
FOLDER = EXAMPLES / "browser"
expect.set_options(timeout=1000 * SECONDS)


@pytest.fixture(scope="module")
def address(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where Envoy serves the page and passes calls on to the server."""
    [own] = free_ports(1)
    ports = {8080: own, 8000: int(server.http.rpartition(":")[2]),
             8001: int(server.url.rpartition(":")[2])}  # fmt: skip
    text = (FOLDER / "envoy.yaml").read_text()
    for port, free in ports.items():
        assert f"port_value: {port}" in text
        text = text.replace(f"port_value: {port}", f"port_value: {free}")
    configuration = tmp_path_factory.mktemp("envoy") / "envoy.yaml"
    configuration.write_text(text)
    envoy = subprocess.Popen(
        [program("envoy"), "-c", str(configuration), "--concurrency", "1", "--log-level", "error",
         "--use-dynamic-base-id"],
        cwd=FOLDER,
    )  # fmt: skip
    until_open(own, envoy)
    yield f"http://127.0.0.1:{own}"
    envoy.send_signal(signal.SIGTERM)
    envoy.wait(timeout=SECONDS)


def until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with socket.socket() as tried:
            tried.settimeout(0.1)
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
    pytest.fail(f"envoy ended with status {process.returncode}")


def choose(page: Page, address: str, model: str, image: Path) -> None:
    page.goto(address)
    page.get_by_label("Model").select_option(model)
    page.get_by_label("Image").set_input_files(image)


def test_a_chosen_image_gets_its_labels(page: Page, address: str, photos: Path) -> None:
    choose(page, address, "colours", photos / "0" / "red.png")
    expect(page.get_by_role("status")).to_have_text(re.compile(r"colours answered in \d+ ms\."))
    rows = page.get_by_role("listitem")
    expect(rows).to_have_count(3)
    expect(rows.first).to_have_text(re.compile(r"^red9\d\.\d %$"))
    assert page.locator("canvas").evaluate("canvas => [canvas.width, canvas.height]") == [24, 16]


def test_a_mask_lies_over_its_image(page: Page, address: str, photos: Path) -> None:
    choose(page, address, "regions", photos / "1" / "green.png")
    expect(page.get_by_role("listitem")).to_have_text([re.compile(r"^green100\.0 %$")])
    pixel = page.locator("canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(5, 5, 1, 1).data]"
    )
    assert pixel[:3] != [20, 200, 30]  # the class's colour is laid over that of the image


def test_what_goes_wrong_is_said(page: Page, address: str, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    choose(page, address, "colours", tmp_path / "text.png")
    expect(page.get_by_role("status")).to_have_text(
        "text.png: not an image that this browser can show"
    )
    page.get_by_label("Model").select_option("points")
    page.get_by_label("Image").set_input_files(photos / "0" / "red.png")
    expect(page.get_by_role("status")).to_have_text(re.compile("neither logits nor a mask"))


def test_the_page_can_be_used_by_keyboard_and_screen_reader(
    page: Page, address: str, photos: Path
) -> None:
    choose(page, address, "colours", photos / "0" / "red.png")
    expect(page.get_by_role("listitem")).to_have_count(3)
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    page.get_by_label("Model").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Image")).to_be_focused()


def test_grpc_web_is_passed_on(address: str, photos: Path) -> None:
    image = pb.Image(encoded=(photos / "2" / "blue.png").read_bytes())
    message = pb.ClassifyRequest(model="colours", images=[image], top_k=1).SerializeToString()
    request = urllib.request.Request(
        f"{address}/convserve.vision.v1.VisionService/Classify",
        data=b"\0" + len(message).to_bytes(4, "big") + message,
        headers={"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"},
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as response:
        body = response.read()
    size = int.from_bytes(body[1:5], "big")
    answer = pb.ClassifyResponse.FromString(body[5 : 5 + size])
    assert answer.results[0].labels[0].name == "blue"
    assert b"grpc-status:0" in body[5 + size :]
