"""Measures the server: tensors in shared memory and in gRPC messages."""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from scripts.gpu.rates import LEFT_OUT, Row, rate, remaining
from serving.base.tensor import TensorSpec
from serving.engines import ENGINES
from serving.repository.model_config import read_model_config

# With -P no module is looked for in the folder in which this is started.
COMMAND = [sys.executable, "-P", "-m", "convserve"]
_PATH = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(_PATH)}
# Seconds for the server to load the model; the budget may leave less.
START_SECONDS = 300.0
# Threads that call the server.
CALLERS = 4


def to_serve(rows: list[Row]) -> list[Row]:
    """The fastest FP16 row of each engine on a GPU, or its fastest row where it has no FP16 row;
    the fastest row of all where none ran on a GPU."""

    def fastest(some: list[Row]) -> Row:
        return max(some, key=lambda row: row["bare_images_per_second"])

    measured = [row for row in rows if "bare_images_per_second" in row]
    chosen = []
    for name, entry in ENGINES.items():
        own = [row for row in measured if row["engine"] == name]
        if entry.device == "gpu" and own:
            chosen.append(fastest([row for row in own if row["precision"] == "fp16"] or own))
    return chosen or ([fastest(measured)] if measured else [])


def serve(repository: Path, model: str, row: Row, args: argparse.Namespace) -> Row:
    """Rates of one variant in the server, and their ratio to the bare engine's."""
    config = read_model_config(repository / model)
    specs = config.inputs[0], config.outputs[0]
    bare = row["bare_images_per_second"]
    result: Row = {
        "variant": row["variant"],
        "engine": row["engine"],
        "client_batch": max(args.batch_sizes),
        "bare_images_per_second": bare,
    }
    # Shared memory and messages are measured; each takes a fifth more to warm up.
    needed = 2.4 * args.seconds
    if remaining(args) < needed:
        return {**result, "why_not": LEFT_OUT}
    patience = min(START_SECONDS, remaining(args) - needed)
    try:
        server = Server(repository, row, args.cache, patience)
    except RuntimeError as error:
        return {**result, "why_not": str(error)}
    try:
        rates = served_rates(server.url, model, specs, max(args.batch_sizes), args.seconds)
        accuracy = evaluate(server.url, model, args.data) if args.data else None
    except InferenceServerException as error:
        return {**result, "why_not": str(error)}
    finally:
        server.stop()
    return {
        **result,
        "images_per_second": rates,
        "ratio": {way: value / bare for way, value in rates.items()},
        "accuracy": accuracy,
    }


class Server:
    """`convserve serve` with one variant in one engine, on free ports.

    Raises RuntimeError where the model is not ready after `seconds`.
    """

    def __init__(self, repository: Path, row: Row, cache: Path, seconds: float) -> None:
        command = [*COMMAND, "serve", "--allow-ungated"]
        command += ["--model-repository", str(repository), "--cache-dir", str(cache)]
        command += ["--engine", row["engine"], "--variant", row["variant"]]
        command += ["--shared-memory", "convserve", "--admin-open", "memory"]
        command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        self._lines: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()
        self._end = time.monotonic() + seconds
        try:
            self.url = f"127.0.0.1:{self._wait('listening')['grpc_port']}"
            self._wait("model ready")
        except RuntimeError:
            self.stop()
            raise

    def _read(self) -> None:
        for line in self._process.stderr or ():
            if line.startswith("{"):
                self._lines.append(json.loads(line))

    def _wait(self, message: str) -> dict[str, Any]:
        while time.monotonic() < self._end and self._process.poll() is None:
            for line in list(self._lines):
                if line["message"] == message:
                    return line
                if line["message"] == "model not loaded":
                    raise RuntimeError(line["reason"])
            time.sleep(0.05)
        raise RuntimeError(f"the server did not say {message!r}: {self._lines[-3:]}")

    def stop(self) -> None:
        """Ends the server."""
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def served_rates(
    url: str, model: str, specs: tuple[TensorSpec, TensorSpec], rows: int, seconds: float
) -> dict[str, float]:
    """Images a second through the server, tensors in shared memory and in the messages."""
    image, answer = specs
    batch = np.full((rows, *image.shape[1:]), 128, np.uint8)
    out_bytes = rows * int(np.prod(answer.shape[1:])) * answer.dtype.itemsize
    client = triton.InferenceServerClient(url)
    regions = []
    calls: list[dict[str, Any]] = []
    for index in range(CALLERS):
        key = f"/convserve_check_{os.getpid()}_{index}"
        region = shm.create_shared_memory_region(key, key, batch.nbytes + out_bytes)
        shm.set_shared_memory_region(region, [batch])
        client.register_system_shared_memory(key, key, batch.nbytes + out_bytes)
        regions.append(region)
        tensor = triton.InferInput(image.name, list(batch.shape), image.datatype)
        tensor.set_shared_memory(key, batch.nbytes)
        wanted = triton.InferRequestedOutput(answer.name)
        wanted.set_shared_memory(key, out_bytes, offset=batch.nbytes)
        calls.append({"inputs": [tensor], "outputs": [wanted]})
    plain = triton.InferInput(image.name, list(batch.shape), image.datatype)
    plain.set_data_from_numpy(batch)
    try:
        return {
            "shared_memory": rate(
                lambda i: client.infer(model, **calls[i]), CALLERS, rows, seconds
            ),
            "unary_grpc": rate(
                lambda _: client.infer(model, inputs=[plain]), CALLERS, rows, seconds
            ),
        }
    finally:
        client.unregister_system_shared_memory()
        for region in regions:
            shm.destroy_shared_memory_region(region)
        client.close()


def evaluate(url: str, model: str, data: Path) -> Any:
    """Accuracy on a labelled folder by `convserve evaluate`, or its error."""
    command = [*COMMAND, "evaluate", "--json", "--url", url]
    command += ["--model", model, "--data", str(data)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    return json.loads(finished.stdout) if finished.returncode == 0 else finished.stderr.strip()
