"""Builds two models, serves them, asks them, puts them under load, and stops the server.

Everything goes through the `convserve` command, as for a user's own models. The exit status is 0
where every step was right.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from training.data import load_dataset
from training.recipes import load_recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {
    "digits": ROOT / "training/recipes/digits-resnet20.yaml",
    "connectors": ROOT / "training/recipes/connectors-unet.yaml",
}
REPOSITORY = ROOT / "model_repo"
OUT = ROOT / "demo"
SHOWN = 4
# Least accuracy of the models on the wire, by measure. The gates of the recipes come before it.
AT_LEAST = {"digits": ("top1", 0.97), "connectors": ("miou", 0.85)}
START_SECONDS = 60


def main() -> None:
    began = time.monotonic()
    for recipe in RECIPES.values():
        step(f"build {recipe.relative_to(ROOT)}")
        convserve("build", recipe, "--model-repository", REPOSITORY, "--out", ROOT / "runs")
    step("write the held-out images as files, as a caller would have them")
    images = {name: write_held_out(name, recipe) for name, recipe in RECIPES.items()}
    step("serve")
    server, url, metrics_url = start_server()
    try:
        convserve("models", "--url", url)
        for name, folder in images.items():
            step(f"{name}: ask for some of them, over gRPC from a process of its own")
            some = sorted(folder.rglob("*.png" if name == "digits" else "*.jpg"))[::73][:SHOWN]
            convserve("predict", *some, "--model", name, "--url", url, "--top-k", "2",
                      "--save", OUT / "answers")  # fmt: skip
            step(f"{name}: accuracy on the wire, all held-out images")
            check_accuracy(name, folder, url)
        for name, folder in images.items():
            step(f"{name}: ten seconds of load, eight callers")
            convserve(
                "loadtest", "run", "--url", url, "--model", name, "--images", folder,
                "--concurrency", "8", "--duration", "10", "--metrics-url", metrics_url,
                "--fail-if", "errors>0",
            )  # fmt: skip
    finally:
        step("stop the server")
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=START_SECONDS)
    if status != 0:
        sys.exit(f"the server ended with status {status}")
    print("stopped cleanly. Reports: runs/*/report.html, masks and overlays: demo/answers/")
    print(f"\nAll steps were right, in {time.monotonic() - began:.0f} s.")


def step(title: str) -> None:
    print(f"\n== {title}", flush=True)


def convserve(*arguments: object) -> None:
    """Runs a sub-command in a process of its own; a failure ends the demo."""
    command = [sys.executable, "-m", "convserve", *map(str, arguments)]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status != 0:
        sys.exit(f"convserve {arguments[0]} ended with status {status}")


def write_held_out(name: str, recipe_file: Path) -> Path:
    """The test split as files: digits as PNG in a folder a class, connectors as JPEG with masks."""
    recipe = load_recipe(recipe_file, [])
    dataset = load_dataset(recipe)
    pixels, targets = dataset.test.batch(range(len(dataset.test)))
    folder = OUT / name
    if recipe.task == "classification":
        for index, (image, label) in enumerate(zip(pixels, targets, strict=True)):
            write(folder / dataset.classes[label] / f"{index:04}.png", image)
        return folder
    for index, (image, mask) in enumerate(zip(pixels, targets, strict=True)):
        write(folder / "images" / f"{index:04}.jpg", image)
        write(folder / "masks" / f"{index:04}.png", mask)
    (folder / "classes.txt").write_text("\n".join(dataset.classes) + "\n")
    print(f"{len(pixels)} images in {folder.relative_to(ROOT)}")
    return folder


def write(file: Path, pixels: np.ndarray) -> None:
    """Writes RGB pixels, or a mask, as an image file in the format of its ending."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shown = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if file.suffix == ".jpg" else []
    if not cv2.imwrite(str(file), shown, quality):
        sys.exit(f"cannot write {file}")


def start_server() -> tuple[subprocess.Popen[str], str, str]:
    """Starts `convserve serve` on free ports and waits until it is ready. Returns the process, its
    address and the URL of its metrics."""
    command = [sys.executable, "-m", "convserve", "serve", "--model-repository", str(REPOSITORY)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    ports: dict[str, int] = {}
    waiting = set(RECIPES)
    stderr = server.stderr
    assert stderr is not None
    for line in stderr:
        entry = json.loads(line) if line.startswith("{") else {}
        if entry.get("message") == "listening":
            ports = {key: entry[key] for key in ("grpc_port", "metrics_port")}
        if entry.get("message") == "model ready":
            print(f"{entry['model']}: {entry['variant']} in {entry['engine']}")
            waiting.discard(entry["model"])
        if entry.get("level") == "error":
            sys.exit(f"the server says: {line}")
        if not waiting:
            break
    else:
        sys.exit(f"the server ended with status {server.wait()}")
    threading.Thread(target=stderr.read, daemon=True).start()
    return (
        server,
        f"127.0.0.1:{ports['grpc_port']}",
        f"http://127.0.0.1:{ports['metrics_port']}/metrics",
    )


def check_accuracy(name: str, folder: Path, url: str) -> None:
    """Prints the accuracy by `convserve evaluate`; ends the demo where it is too low."""
    command = [sys.executable, "-m", "convserve", "evaluate", "--model", name]
    command += ["--data", str(folder), "--url", url, "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"convserve evaluate ended with status {result.returncode}: {result.stderr}")
    report = json.loads(result.stdout)
    measure, bound = AT_LEAST[name]
    found = report[measure]
    print(
        f"{measure} {found['value']:.4f} (95 %: {found['low']:.4f} to {found['high']:.4f}) "
        f"on {report['n']} images"
    )
    if report["failed"] or found["value"] < bound:
        sys.exit(f"{name}: {measure} must be at least {bound}, with no failed image")


if __name__ == "__main__":
    main()
