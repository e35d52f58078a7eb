"""Classifies a folder of images into a file of JSON lines; stopped, the same command goes on.

Each image gets one line: {"image": ..., "label": ..., "score": ...}, or one with "error" where it
cannot be decoded; "image" is its path, beginning with FOLDER as it was given. Images that have
their line already are not sent again.
`convserve score` does the same into Parquet, on all cores or on a cluster.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track

from serving.client import CallFailed, VisionClient

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
# The failure of an image itself, which it would have again. Others end the job.
OF_THE_IMAGE = "INVALID_ARGUMENT"


def main() -> int:
    arguments = parse_arguments()
    if not arguments.folder.is_dir():
        sys.exit(f"{arguments.folder}: no such folder")
    files = sorted(f for f in arguments.folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    done = finished(arguments.out)
    if done and done.isdisjoint(file.as_posix() for file in files):
        sys.exit(f"{arguments.out}: has none of the images of {arguments.folder}; give --out")
    left = [file for file in files if file.as_posix() not in done]
    print(f"{len(files)} images, {len(files) - len(left)} done, {len(left)} to go", file=sys.stderr)
    try:
        with arguments.out.open("a", buffering=1) as out:  # a line is written when it is complete
            for row in rows(arguments, left):
                out.write(json.dumps(row) + "\n")
    except CallFailed as failure:
        print(f"stopped: {arguments.url}: {failure}; the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    print(f"{arguments.out}: {len(files)} images", file=sys.stderr)
    return 0


def finished(out: Path) -> set[str]:
    """The images that have a line. A last line that a kill cut off is removed."""
    if not out.exists():
        return set()
    text = out.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return {json.loads(line)["image"] for line in whole.splitlines()}


def rows(arguments: argparse.Namespace, files: list[Path]) -> Iterator[dict[str, str | float]]:
    """A row an image, as answers come. Raises CallFailed where the server cannot go on."""
    with VisionClient(arguments.url, timeout=60.0, retries=5) as client:
        answers = client.classify_many(
            arguments.model, files, concurrency=arguments.concurrency, top_k=1
        )
        bar = track(
            zip(files, answers, strict=True),
            total=len(files),
            description="classifying",
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        for file, (_, answer) in bar:
            image = file.as_posix()
            if not isinstance(answer, CallFailed):
                [best] = answer.results[0].labels
                yield {"image": image, "label": best.name, "score": round(best.score, 4)}
            elif answer.code == OF_THE_IMAGE:
                yield {"image": image, "error": answer.message}
            else:
                raise answer


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="images, in folders as deep as you like")
    parser.add_argument("--model", required=True, help="name of a model that the server has")
    parser.add_argument(
        "--out", type=Path, default=Path("labels.jsonl"), help="file of JSON lines [%(default)s]"
    )
    parser.add_argument("--url", default="127.0.0.1:8001", help="HOST:PORT of gRPC [%(default)s]")
    parser.add_argument(
        "--concurrency", type=int, default=64, help="images under way at a time [%(default)s]"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
