"""Classifies image files from asyncio, many calls at a time, each printed as its answer comes."""

import argparse
import asyncio
import sys
import time

from serving.client import AsyncVisionClient, CallFailed


async def main() -> int:
    arguments = parse_arguments()
    places = asyncio.Semaphore(arguments.concurrency)

    async with AsyncVisionClient(arguments.url, timeout=arguments.timeout) as client:

        async def classify(file: str) -> bool:
            """Prints the best label of one file. Whether it was answered."""
            async with places:
                try:
                    answer = await client.classify(arguments.model, file, top_k=1)
                except CallFailed as failure:
                    there = "" if failure.code != "UNAVAILABLE" else f" (at {arguments.url})"
                    print(f"{file}: {failure}{there}", file=sys.stderr)
                    return False
                except OSError as error:
                    print(f"{file}: {error.strerror}", file=sys.stderr)
                    return False
            [best] = answer.results[0].labels
            print(f"{file}: {best.name} {best.score:.1%}")
            return True

        began = time.monotonic()
        answered = await asyncio.gather(*map(classify, arguments.images))
    seconds = time.monotonic() - began
    print(f"{sum(answered)} of {len(answered)} images in {seconds:.2f} s", file=sys.stderr)
    return 0 if all(answered) else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="name of a model that the server has")
    parser.add_argument("images", nargs="+", help="JPEG, PNG, WebP or BMP files")
    parser.add_argument("--url", default="127.0.0.1:8001", help="HOST:PORT of gRPC [%(default)s]")
    parser.add_argument(
        "--concurrency", type=int, default=32, help="calls under way at a time [%(default)s]"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        help="seconds of a call, tries included [%(default)s]",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
