"""Measures what a machine's accelerator does, in one command of a few minutes.

    python scripts/gpu_check.py [--out DIR] [--network resnet50] [--side 224] [--seconds 10]
    python scripts/gpu_check.py --model-repository DIR --model NAME [--data LABELLED_FOLDER]

Shows which engines run here, and why the others do not; the distance of every variant and engine
from FP32, and its latency by batch size; the server with each GPU engine's fastest FP16 variant
against the bare engine, in client batches of the largest size, through system shared memory and
over unary gRPC; and how fast images are decoded. Writes gpu_check.json and gpu_check.md into DIR.
Measurements that do not fit into --budget seconds are left out, and named. Without --model it makes
a network with random weights, which is as fast as a trained one. Needs [train] and [dev]; runs on
a CPU too, with the engines that are there.
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).resolve().parent
# The root in place of this folder, whose protos.py would hide the package of that name.
sys.path[:] = [str(_FOLDER.parent)] + [e for e in sys.path if Path(e).resolve() != _FOLDER]

import numpy as np
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from PIL import Image
from tritonclient.utils import InferenceServerException

from serving import hardware_jpeg, plans
from serving.engines import (
    ENGINES,
    Engine,
    EngineOptions,
    gpu,
    load_engine,
    unavailable_reason,
)
from serving.engines.measure import core_count, device_name, measure_latency
from serving.errors import ServingError
from serving.evaluation import output_distance
from serving.manifest import (
    IMAGE_INPUT,
    PROBABILITY_OUTPUT,
    EvalTransform,
    Manifest,
    Normalization,
    Provenance,
    Variant,
    answer_output,
    read_manifest,
    write_manifest,
)
from serving.model_config import ModelConfig, read_model_config
from serving.postprocess import binary_mask
from serving.preprocess import load_image, use_jpeg_decoder
from serving.tensor import Array, TensorSpec

if TYPE_CHECKING:
    from training.deploy import Deployed

Row = dict[str, Any]

START_SECONDS = 300.0
# Of the budget; the rest is the servers'.
EXAMINED_SHARE = 0.6
LEFT_OUT = "left out: time"
CALLERS = 4
CLASSES = 1000
PRECISIONS = {"fp32": "fp32", "fp16": "fp16", "int8-s8": "int8"}
_IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_UNKNOWN = Provenance(
    recipe="none", recipe_sha256="0" * 64, run="none", dataset="none", split="none", created="now"
)


def make_model(repository: Path, network: str, side: int, max_batch_size: int) -> str:
    """Publishes a classifier with random weights in every precision a GPU runs; its name."""
    import torch

    from training.calibration import choose_calibration
    from training.data.samples import ArraySamples
    from training.deploy import Deployed, input_specs, output_specs
    from training.export import export_onnx
    from training.half import to_half
    from training.models import build_model
    from training.quantize import quantize

    folder = repository / network / "1"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    deployed = Deployed(build_model(network, CLASSES), "classification", _IMAGENET)
    spread_answers(deployed, pictures(64, side))
    inputs = input_specs((side, side))
    outputs = output_specs("classification", CLASSES, (side, side))
    files = {v: folder / f"model.{v}.onnx" for v in PRECISIONS} | {"fp32": folder / "model.onnx"}
    export_onnx(deployed, inputs, outputs, 20, files["fp32"])
    to_half(files["fp32"], files["fp16"])
    samples = ArraySamples(pictures(16, side), np.zeros(16, np.int64))
    quantize(files["fp32"], files["int8-s8"], "s8", "minmax", choose_calibration(samples, 16, 0))
    write_manifest(
        folder,
        Manifest(
            task="classification",
            architecture=network,
            measure="top1",
            transform=EvalTransform(resize=(side, side)),
            normalization=_IMAGENET,
            classes=tuple(map(str, range(CLASSES))),
            parameters=0,
            gmacs=0.0,
            provenance=_UNKNOWN,
            variants=tuple(
                Variant.model_validate(
                    {
                        "id": variant,
                        "file": file.name,
                        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                        "precision": PRECISIONS[variant],
                        "evidence": {},
                    }
                )
                for variant, file in files.items()
            ),
        ),
    )
    # Plans that are made here are vouched for by these, as those of a published model are.
    fp32 = load_engine("onnxruntime", files["fp32"], EngineOptions(threads=core_count()))
    images = pictures(8, side)
    np.savez(folder / "samples.npz", image=images, **fp32.infer({IMAGE_INPUT: images}))
    fp32.close()
    (folder.parent / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\nmax_batch_size: {max_batch_size}\n'
        f'input {{ name: "image" data_type: TYPE_UINT8 dims: [{side}, {side}, 3] }}\n'
        f'output {{ name: "logits" data_type: TYPE_FP32 dims: [{CLASSES}] }}\n'
        "dynamic_batching { }\noptimization { cuda { graphs: true } }\n"
    )
    return network


def spread_answers(deployed: "Deployed", images: Array) -> None:
    """Has a network with random weights tell pictures apart: as it is, all of them get the same
    class, and two engines agree whatever they compute."""
    import torch
    from torch import nn
    from torch.optim.swa_utils import update_bn

    batches = torch.from_numpy(images).split(16)
    update_bn((deployed.normalized(batch) for batch in batches), deployed.network)
    deployed.eval()
    *_, head = (layer for layer in deployed.network.modules() if isinstance(layer, nn.Linear))
    with torch.inference_mode():
        logits = torch.cat([deployed(batch)[0] for batch in batches])
    scale = 1 / logits.std(dim=0).mean().clamp(min=1e-6)
    with torch.no_grad():
        head.bias.sub_(logits.mean(dim=0))
        head.bias.mul_(scale)
        head.weight.mul_(scale)


def pictures(count: int, side: int) -> Array:
    """uint8 [count, side, side, 3] with smooth colours and noise, from a fixed seed."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((side, side))) for image in coarse]
    return np.stack(large) // 2 + rng.integers(0, 128, (count, side, side, 3), np.uint8)


def options_for(engine: str, precision: str, config: ModelConfig, cache: Path) -> EngineOptions:
    """As the server loads it: two instances on the first GPU, or all cores."""
    on_gpu = ENGINES[engine].device == "gpu"
    return EngineOptions(
        precision=precision,
        instances=2 if on_gpu else 1,
        threads=core_count(),
        max_batch_size=max(1, config.max_batch_size),
        cache_dir=cache,
        devices=(0, 0) if on_gpu else (),
        graph_batch_sizes=config.placement.graph_batch_sizes if on_gpu else (),
    )


def examine(
    folder: Path, manifest: Manifest, config: ModelConfig, args: argparse.Namespace
) -> list[Row]:
    """A row for each variant in each engine: agreement with FP32, and latency."""
    end = time.monotonic() + EXAMINED_SHARE * remaining(args)
    images = None
    beside_gpu = gpu.unavailable_reason() is None
    rows: list[Row] = []
    expected = None
    for variant in manifest.variants:
        for name, entry in ENGINES.items():
            fits = Path(variant.file).suffix in entry.suffixes
            if not fits or variant.precision not in entry.precisions:
                continue
            row: Row = {"variant": variant.id, "engine": name, "precision": variant.precision}
            rows.append(row)
            evidence = variant.evidence.get(name)
            if evidence is not None:
                row["published_accuracy"] = str(evidence.accuracy)
            reason = unavailable_reason(name)
            if beside_gpu and entry.device == "cpu" and variant.id != "fp32":
                # All that the CPU has to say there is what FP32 answers.
                reason = "left out beside a GPU"
            if reason is None and time.monotonic() > end:
                reason = LEFT_OUT
            if reason is not None:
                row["why_not"] = reason
                continue
            try:
                options = options_for(name, variant.precision, config, args.cache)
                plans.check_fits(variant, options.devices)
                engine = load_engine(name, folder / variant.file, options)
            except ServingError as error:
                row["why_not"] = str(error)
                continue
            try:
                if images is None:
                    images = pictures(args.images, engine.inputs[0].shape[1])
                answer = answer_output(manifest.task, [spec.name for spec in engine.outputs])
                found = answers(engine, images, answer, max(1, config.max_batch_size))
                expected = found if expected is None else expected
                equal = predicted(answer, found) == predicted(answer, expected)
                row["agreement"] = float(np.mean(equal))
                row["distance"] = output_distance(answer, expected, found)
                row["milliseconds"] = measure_latency(
                    engine, engine.inputs, args.batch_sizes, args.seconds / 20
                )
                bare = bare_rate(engine, options.instances, max(args.batch_sizes), args.seconds)
                row["bare_images_per_second"] = bare
            except ServingError as error:
                row["why_not"] = str(error)
            finally:
                engine.close()
    return rows


def remaining(args: argparse.Namespace) -> float:
    """Seconds of the budget that are left."""
    left: float = args.end - time.monotonic()
    return left


def answers(engine: Engine, images: Array, output: str, rows: int) -> Array:
    parts = [images[start : start + rows] for start in range(0, len(images), rows)]
    return np.concatenate([engine.infer({IMAGE_INPUT: part})[output] for part in parts])


def predicted(output: str, answer: Array) -> Array:
    if output == PROBABILITY_OUTPUT:
        return binary_mask(answer)[0]
    return answer.argmax(axis=1) if answer.ndim == 2 else answer


def rate(call: Callable[[int], None], callers: int, rows: int, seconds: float) -> float:
    """Images a second of so many callers in a closed loop, after a fifth of the time to warm up;
    each makes one call at least that counts."""
    counts = [0] * callers
    begin = time.monotonic() + seconds / 5
    end = begin + seconds

    def caller(index: int) -> None:
        while (now := time.monotonic()) < end or not counts[index]:
            call(index)
            if now >= begin:
                counts[index] += rows

    with ThreadPoolExecutor(callers) as pool:
        for future in [pool.submit(caller, index) for index in range(callers)]:
            future.result()
    return sum(counts) / (time.monotonic() - begin)


def bare_rate(engine: Engine, instances: int, rows: int, seconds: float) -> float:
    """The engine alone, on memory of its own choosing, as many calls at a time as instances."""
    spec = engine.inputs[0]
    shape = (rows, *spec.shape[1:])
    buffers = []
    for _ in range(instances):
        buffer = engine.allocate(spec, shape)
        buffer[...] = 128
        buffers.append(buffer)
    return rate(lambda i: void(engine.infer({spec.name: buffers[i]})), instances, rows, seconds / 2)


def void(_: object) -> None:
    """Takes an answer that only had to come."""


class Server:
    """`convserve serve` with one variant in one engine, on free ports."""

    def __init__(self, repository: Path, row: Row, cache: Path, seconds: float) -> None:
        command = [sys.executable, "-m", "convserve", "serve", "--allow-ungated"]
        command += ["--model-repository", str(repository), "--cache-dir", str(cache)]
        command += ["--engine", row["engine"], "--variant", row["variant"]]
        command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
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
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def served_rates(
    url: str, model: str, specs: tuple[TensorSpec, TensorSpec], rows: int, seconds: float
) -> dict[str, float]:
    """Images a second over the wire, tensors in shared memory and in the messages."""
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
                lambda i: void(client.infer(model, **calls[i])), CALLERS, rows, seconds
            ),
            "unary_grpc": rate(
                lambda _: void(client.infer(model, inputs=[plain])), CALLERS, rows, seconds
            ),
        }
    finally:
        client.unregister_system_shared_memory()
        for region in regions:
            shm.destroy_shared_memory_region(region)
        client.close()


def to_serve(rows: list[Row]) -> list[Row]:
    """The fastest FP16 row of each engine on a GPU, its fastest where it has none; the fastest of
    all where nothing ran on a GPU."""

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
    """What the server makes of one variant, as shares of the bare engine."""
    config = read_model_config(repository / model)
    specs = config.inputs[0], config.outputs[0]
    bare = row["bare_images_per_second"]
    result: Row = {
        "variant": row["variant"],
        "engine": row["engine"],
        "client_batch": max(args.batch_sizes),
        "bare_images_per_second": bare,
    }
    # Both ways of asking, and each a fifth more to warm up.
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


def evaluate(url: str, model: str, data: Path) -> Any:
    """Accuracy of what is served on a labelled folder, as `convserve evaluate` has it."""
    command = [sys.executable, "-m", "convserve", "evaluate", "--json", "--url", url]
    command += ["--model", model, "--data", str(data)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(finished.stdout) if finished.returncode == 0 else finished.stderr.strip()


def decode_rates(seconds: float) -> Row:
    """JPEGs of 500x375 to 224x224 a second, on one thread and on one for each core; and by the
    GPU's own unit, or why not."""
    buffer = io.BytesIO()
    large = Image.fromarray(pictures(1, 500)[0][:375])
    large.save(buffer, "JPEG", quality=90)
    data, transform = buffer.getvalue(), EvalTransform(resize=(224, 224))

    def decoded(threads: int) -> float:
        return rate(lambda _: void(load_image(data, transform)), threads, 1, seconds / 5)

    rates: Row = {f"{threads} threads": decoded(threads) for threads in sorted({1, core_count()})}
    reason = hardware_jpeg.enable()
    rates["hardware"] = reason if reason is not None else decoded(core_count())
    use_jpeg_decoder(None)
    return rates


def markdown(report: Mapping[str, Any]) -> str:
    """The table of variants, and below it the few numbers that stand alone."""
    sizes = report["batch_sizes"]
    times = [f"b{size} ms" for size in sizes]
    head = ["variant", "engine", "agreement", "distance", *times, "images/s", "why not"]
    lines = [f"# GPU check\n\n{report['machine']}\n", f"| {' | '.join(head)} |"]
    lines.append("|" + " --- |" * len(head))
    for row in report["variants"]:
        milliseconds = row.get("milliseconds", {})
        agreement = f"{row['agreement']:.2%}" if "agreement" in row else ""
        distance = f"{row['distance']:.2g}" if "distance" in row else ""
        cells = [row["variant"], row["engine"], agreement, distance]
        cells += [f"{milliseconds[size]:.2f}" if size in milliseconds else "" for size in sizes]
        bare = row.get("bare_images_per_second")
        cells += [f"{bare:,.0f}" if bare else "", row.get("why_not", "").replace("|", "/")]
        lines.append(f"| {' | '.join(cells)} |")
    for server in report["server"]:
        which = f"{server['variant']} in {server['engine']}"
        if "why_not" in server:
            lines.append(f"\nServer, {which}: not measured: {server['why_not']}")
            continue
        shares = ", ".join(f"{way} {share:.2f}" for way, share in server["ratio"].items())
        lines.append(
            f"\nServer against the bare engine, {which}, client batches of "
            f"{server['client_batch']}: {shares}."
        )
    decoded = ", ".join(
        f"{value:,.0f} on {name}" if isinstance(value, float) else f"none on {name} ({value})"
        for name, value in report["decode"].items()
    )
    lines.append(f"\nJPEGs decoded and resized a second: {decoded}.")
    lines.append(f"\nThe whole check took {report['seconds']:.0f} s.\n")
    return "\n".join(lines)


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything; the document that is written as JSON."""
    begin = time.monotonic()
    args.end = begin + args.budget
    repository = args.model_repository or args.out / "repository"
    if args.model is None:
        shutil.rmtree(repository, ignore_errors=True)
        args.model = make_model(repository, args.network, args.side, max(args.batch_sizes))
    config = read_model_config(repository / args.model)
    largest = max(1, config.max_batch_size)
    args.batch_sizes = sorted({min(size, largest) for size in args.batch_sizes})
    version = max(int(p.name) for p in (repository / args.model).iterdir() if p.name.isdecimal())
    folder = repository / args.model / str(version)
    manifest = read_manifest(folder)
    if manifest is None:
        raise SystemExit(f"{folder}: no manifest.json")
    failures: list[str] = []
    if unavailable_reason(local_plans.ENGINE) is None:
        for request in local_plans.plan_requests(folder, manifest, largest, args.cache):
            try:
                if remaining(args) > 0:
                    local_plans.build(request)
                else:
                    failures.append(f"{request.variant}: {LEFT_OUT}")
            except ServingError as error:
                failures.append(str(error))
        manifest = local_plans.with_local(folder, manifest, largest, args.cache)
    rows = examine(folder, manifest, config, args)
    return {
        "machine": device_name("cpu" if gpu.unavailable_reason() else "gpu"),
        "engines": {name: unavailable_reason(name) or "runs here" for name in ENGINES},
        "model": args.model,
        "batch_sizes": list(args.batch_sizes),
        "variants": rows,
        "plans_that_failed": failures,
        "server": [serve(repository, args.model, row, args) for row in to_serve(rows)],
        "decode": decode_rates(args.seconds),
        "seconds": time.monotonic() - begin,
    }


def main() -> None:
    """Measures, prints and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/gpu-check"))
    parser.add_argument("--model-repository", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--data", type=Path, help="a labelled folder, to measure accuracy on")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all of it")
    args = parser.parse_args()
    if (args.model is None) != (args.model_repository is None):
        parser.error("give --model-repository and --model, or neither")
    args.out.mkdir(parents=True, exist_ok=True)
    args.cache = args.out / "cache"
    report = check(args)
    (args.out / "gpu_check.json").write_text(json.dumps(report, indent=2) + "\n")
    (args.out / "gpu_check.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
