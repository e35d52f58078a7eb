"""Classifies image files with NVIDIA's tritonclient as it is: pip install 'tritonclient[grpc]'."""

import argparse
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


def main() -> int:
    arguments = parse_arguments()
    client = triton.InferenceServerClient(arguments.url)
    wanted = triton.InferRequestedOutput(arguments.output, class_count=arguments.top_k)
    failed = 0
    for file in arguments.images:
        try:
            # A whole image file as one element of BYTES: the server decodes and resizes it.
            encoded = triton.InferInput("encoded", [1, 1], "BYTES")
            encoded.set_data_from_numpy(np.array([[Path(file).read_bytes()]], dtype=np.object_))
            answer = client.infer(
                arguments.model, [encoded], outputs=[wanted], client_timeout=arguments.timeout
            )
        except InferenceServerException as error:
            if error.status() == "StatusCode.UNAVAILABLE":
                print(f"no server answers at {arguments.url}: {error.message()}", file=sys.stderr)
                return 1
            print(f"{file}: {error.message()}", file=sys.stderr)
            failed += 1
        except OSError as error:
            print(f"{file}: {error.strerror}", file=sys.stderr)
            failed += 1
        else:
            # Each is VALUE:INDEX:NAME, the largest first; values are logits, not probabilities.
            rows = (text.decode().split(":", 2) for text in answer.as_numpy(arguments.output)[0])
            print(f"{file}: " + ", ".join(f"{name} {float(value):.2f}" for value, _, name in rows))
    client.close()
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="name of a model that the server has")
    parser.add_argument("images", nargs="+", help="JPEG, PNG, WebP or BMP files")
    parser.add_argument("--url", default="127.0.0.1:8001", help="HOST:PORT of gRPC [%(default)s]")
    parser.add_argument("--output", default="logits", help="name of the scores [%(default)s]")
    parser.add_argument("--top-k", type=int, default=3, help="labels of an image [%(default)s]")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
