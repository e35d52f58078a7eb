"""Classifies image files with a convserve server, one call after the other."""

import argparse
import sys

from serving.client import CallFailed, VisionClient


def main() -> int:
    arguments = parse_arguments()
    failed = 0
    with VisionClient(arguments.url, timeout=arguments.timeout) as client:
        for file in arguments.images:
            try:
                answer = client.classify(arguments.model, file, top_k=arguments.top_k)
            except CallFailed as failure:
                if failure.code == "UNAVAILABLE":
                    print(f"no server answers at {arguments.url}: {failure}", file=sys.stderr)
                    return 1
                print(f"{file}: {failure}", file=sys.stderr)
                failed += 1
            except OSError as error:
                print(f"{file}: {error.strerror}", file=sys.stderr)
                failed += 1
            else:
                [result] = answer.results
                labels = ", ".join(f"{label.name} {label.score:.1%}" for label in result.labels)
                print(f"{file}: {labels}  ({answer.served.variant})")
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="name of a model that the server has")
    parser.add_argument("images", nargs="+", help="JPEG, PNG, WebP or BMP files")
    parser.add_argument("--url", default="127.0.0.1:8001", help="HOST:PORT of gRPC [%(default)s]")
    parser.add_argument("--top-k", type=int, default=3, help="labels of an image [%(default)s]")
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        help="seconds of a call, tries included [%(default)s]",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
