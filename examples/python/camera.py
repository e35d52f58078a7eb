"""Classifies a camera's pictures as they come; where the server is slower, the newest picture wins.

A queue of pictures would only grow older. Here one picture waits at most: a newer one takes its
place, and the one that was waiting is dropped and counted. At the end it prints what became of all
pictures: seen = answered + dropped + refused.
"""

import argparse
import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from serving.client import AsyncVisionClient, CallFailed

Picture = NDArray[np.uint8]


@dataclass
class Counts:
    seen: int = 0
    answered: int = 0
    dropped: int = 0
    refused: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{name} {number}" for name, number in vars(self).items())


class Newest:
    """A place for one picture."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._changed = asyncio.Condition()
        self._picture: Picture | None = None
        self._ended = False

    async def put(self, picture: Picture | None) -> None:
        """Takes the place of the picture that waits. None ends it."""
        async with self._changed:
            if picture is None:
                self._ended = True
            else:
                self._counts.seen += 1
                self._counts.dropped += self._picture is not None
                self._picture = picture
            self._changed.notify_all()

    async def take(self) -> Picture | None:
        """The newest picture once there is one; None after the last."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._picture is not None or self._ended)
            picture, self._picture = self._picture, None
            return picture


async def main() -> int:
    arguments = parse_arguments()
    reading = opened(arguments.source)
    counts = Counts()
    newest = Newest(counts)
    loop = asyncio.get_running_loop()
    unreachable: list[CallFailed] = []

    def watch() -> None:
        """The camera has a thread of its own: it never waits for the server."""
        try:
            for picture in paced(reading, arguments.fps, arguments.frames):
                if unreachable:
                    break
                asyncio.run_coroutine_threadsafe(newest.put(picture), loop).result()
        finally:
            asyncio.run_coroutine_threadsafe(newest.put(None), loop).result()

    async def ask(client: AsyncVisionClient) -> None:
        while (picture := await newest.take()) is not None:
            # Only what is sent is encoded. A JPEG is a tenth of the pixels, and quick to decode.
            _, encoded = await asyncio.to_thread(cv2.imencode, ".jpg", picture)
            began = time.monotonic()
            try:
                answer = await client.classify(arguments.model, encoded.tobytes(), top_k=1)
            except CallFailed as failure:
                counts.refused += 1
                print(failure, file=sys.stderr)
                if failure.code in ("UNAVAILABLE", "NOT_FOUND"):
                    unreachable.append(failure)
                    return
            else:
                counts.answered += 1
                [best] = answer.results[0].labels
                late = 1000 * (time.monotonic() - began)
                print(f"picture {counts.seen}: {best.name} {best.score:.1%}  {late:.0f} ms")

    # An answer that comes later than the deadline is of no use: the server refuses it at once.
    async with AsyncVisionClient(arguments.url, timeout=arguments.deadline, retries=0) as client:
        camera = threading.Thread(target=watch)
        camera.start()
        await asyncio.gather(*(ask(client) for _ in range(arguments.in_flight)))
        await asyncio.to_thread(camera.join)
    if unreachable:
        print(f"no answer of {arguments.model} at {arguments.url}", file=sys.stderr)
        return 1
    print(counts)
    return 0


def opened(source: str) -> Iterator[Picture]:
    """BGR pictures of a folder (again and again), of a video, or of a camera by its number."""
    return _of_folder(Path(source)) if Path(source).is_dir() else _of_video(source)


def paced(reading: Iterator[Picture], fps: float, frames: int) -> Iterator[Picture]:
    """The first `frames` pictures, `fps` of them a second; 0 is no limit to either."""
    due = time.monotonic()
    for picture in itertools.islice(reading, frames or None):
        yield picture
        if fps:
            due += 1 / fps
            time.sleep(max(0.0, due - time.monotonic()))


def _of_folder(folder: Path) -> Iterator[Picture]:
    read = (cv2.imread(str(file)) for file in sorted(folder.iterdir()) if file.is_file())
    found = [picture.astype(np.uint8) for picture in read if picture is not None]
    if not found:
        sys.exit(f"{folder}: no images")
    return itertools.cycle(found)


def _of_video(source: str) -> Iterator[Picture]:
    video = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not video.isOpened():
        sys.exit(f"{source}: neither a folder nor a video, nor the number of a camera")
    # The first element of each pair says whether there was a picture.
    pairs = itertools.takewhile(lambda pair: pair[0], iter(video.read, None))
    return (picture.astype(np.uint8) for _, picture in pairs)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="folder of images, video file or URL, number of a camera")
    parser.add_argument("--model", required=True, help="name of a model that the server has")
    parser.add_argument("--url", default="127.0.0.1:8001", help="HOST:PORT of gRPC [%(default)s]")
    parser.add_argument(
        "--fps", type=float, default=30.0, help="pictures a second; 0: as they come [%(default)s]"
    )
    parser.add_argument("--frames", type=int, default=0, help="end after so many; 0: never [0]")
    parser.add_argument(
        "--in-flight", type=int, default=1, help="calls under way at a time [%(default)s]"
    )
    parser.add_argument(
        "--deadline", type=float, default=1.0, help="seconds an answer may take [%(default)s]"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
