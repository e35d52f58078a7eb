"""Every name of TensorRT and CUDA that we use, looked up in NVIDIA's real bindings.

The wheels (1.3 MB each) come from the package index, once a machine, into .tools/tensorrt; they
import beside empty libraries of TensorRT's names. Without an index or a C compiler the test is
skipped. Nothing here is executed: there is no GPU.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
TOOLS = ROOT / ".tools" / "tensorrt"
WHEELS = {"10": "tensorrt-cu12-bindings==10.13.3.9", "11": "tensorrt-cu13-bindings==11.4.0.106"}
FILES = [
    ROOT / "serving" / "engines" / "tensorrt" / name for name in ("engine.py", "log.py", "build.py")
]
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip

# What each class must offer, and how a call of it must look: parameter names of ours in order.
METHODS = {
    "Builder.create_network": "flags",
    "Builder.create_builder_config": "",
    "Builder.create_optimization_profile": "",
    "Builder.build_serialized_network": "network config",
    "OnnxParser.__init__": "network logger",
    "OnnxParser.parse_from_file": "model",
    "OnnxParser.get_error": "index",
    "ParserError.node_name": "",
    "ParserError.node_operator": "",
    "ParserError.desc": "",
    "INetworkDefinition.get_input": "index",
    "IBuilderConfig.clear_flag": "flag",
    "IBuilderConfig.set_memory_pool_limit": "pool pool_size",
    "IBuilderConfig.add_optimization_profile": "profile",
    "IBuilderConfig.create_timing_cache": "serialized_timing_cache",
    "IBuilderConfig.set_timing_cache": "cache ignore_mismatch",
    "IBuilderConfig.get_timing_cache": "",
    "ITimingCache.serialize": "",
    "IOptimizationProfile.set_shape": "input min opt max",
    "Runtime.__init__": "logger",
    "Runtime.deserialize_cuda_engine": "serialized_engine",
    "ICudaEngine.create_execution_context": "strategy",
    "ICudaEngine.get_tensor_name": "index",
    "ICudaEngine.get_tensor_mode": "name",
    "ICudaEngine.get_tensor_dtype": "name",
    "ICudaEngine.get_tensor_shape": "name",
    "ICudaEngine.get_tensor_profile_shape": "name profile_index",
    "IExecutionContext.set_optimization_profile_async": "profile_index stream_handle",
    "IExecutionContext.set_device_memory": "memory size",
    "IExecutionContext.set_input_shape": "name shape",
    "IExecutionContext.get_tensor_shape": "name",
    "IExecutionContext.set_tensor_address": "name memory",
    "IExecutionContext.execute_async_v3": "stream_handle",
    "ILogger.__init__": "",
    "ILogger.log": "severity msg",
}
ATTRIBUTES = (
    "ICudaEngine.num_io_tensors", "ICudaEngine.device_memory_size_v2", "OnnxParser.num_errors",
    "INetworkDefinition.num_inputs", "ITensor.name", "ITensor.shape", "IHostMemory.nbytes",
)  # fmt: skip
CUDA = {
    "cudaSetDevice": "device", "cudaHostAlloc": "size flags",
    "cudaFreeHost": "ptr", "cudaMalloc": "size", "cudaFree": "devPtr",
    "cudaStreamCreateWithFlags": "flags", "cudaStreamDestroy": "stream",
    "cudaMemcpyAsync": "dst src count kind stream", "cudaStreamSynchronize": "stream",
    "cudaStreamBeginCapture": "stream mode", "cudaStreamEndCapture": "stream",
    "cudaGraphInstantiate": "graph flags", "cudaGraphDestroy": "graph",
    "cudaGraphLaunch": "graphExec stream", "cudaGraphExecDestroy": "graphExec",
    "cudaGetErrorString": "error",
}  # fmt: skip

INSPECT = """
import json, os, sys
sys.setdlopenflags(os.RTLD_LAZY)
import tensorrt_bindings as trt
def look(path):
    found = trt
    for part in path.split("."):
        found = getattr(found, part, None)
    return None if found is None else (getattr(found, "__doc__", "") or "yes")
paths = json.load(sys.stdin)
class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
    def log(self, severity, msg):
        pass
Log()
assert issubclass(trt.IHostMemory, object) and trt.ILogger.ERROR.name == "ERROR"
json.dump({"version": trt.__version__, "docs": {p: look(p) for p in paths}}, sys.stdout)
"""


def used_names() -> set[str]:
    """Everything that is written `tensorrt.A.B` in the engine's files."""
    text = "".join(file.read_text() for file in FILES)
    names = re.findall(r"(?<!\.)\btensorrt((?:\.[A-Za-z_]\w*)+)", text)
    return {name[1:] for name in names} - {"__version__"}


def parameters(doc: str) -> list[list[str]]:
    """Parameter names of each overload in a docstring of pybind11, self left out."""
    found = re.findall(r"^(?:\d+\. )?\w+\((.*)\) ->", doc, re.MULTILINE)
    return [
        [name for name in re.findall(r"(?:^|, )(\w+):", arguments) if name != "self"]
        for arguments in found
    ]


@pytest.fixture(scope="module", params=list(WHEELS))
def bindings(request: pytest.FixtureRequest) -> dict[str, str]:
    """Environment in which `tensorrt_bindings` of a major version can be imported."""
    major = request.param
    folder = TOOLS / major
    if not (folder / "lib").is_dir():
        _install(major, folder)
    return {
        **os.environ,
        "PYTHONPATH": str(folder / "site"),
        "LD_LIBRARY_PATH": str(folder / "lib"),
    }


def _install(major: str, folder: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler (cc) is needed for stand-ins of TensorRT's libraries")
    download = folder / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "0"]
    command += ["--only-binary", ":all:", "--dest", str(download), WHEELS[major]]
    got = subprocess.run(command, capture_output=True, text=True, check=False)
    if got.returncode != 0:
        pytest.skip(f"{WHEELS[major]} cannot be downloaded: {got.stderr.strip()[-200:]}")
    [wheel] = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
    staged = folder / "lib.partial"
    staged.mkdir(exist_ok=True)
    for name in LIBRARIES:
        library = f"lib{name}.so.{major}"
        build = [compiler, "-shared", "-fPIC", "-o", str(staged / library)]
        subprocess.run([*build, f"-Wl,-soname,{library}", str(source)], check=True)
    staged.rename(folder / "lib")


def test_every_name_we_use_is_in_the_real_bindings(bindings: dict[str, str]) -> None:
    wanted = sorted(used_names() | set(METHODS) | set(ATTRIBUTES))
    assert {"Builder", "Runtime", "BuilderFlag.TF32", "DataType.UINT8"} <= set(wanted)
    looked = subprocess.run(
        [sys.executable, "-c", INSPECT], input=json.dumps(wanted), env=bindings,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    docs = json.loads(looked.stdout)["docs"]
    assert [name for name, doc in docs.items() if doc is None] == []
    for name, expected in METHODS.items():
        overloads = parameters(docs[name])
        fits = any(overload[: len(expected.split())] == expected.split() for overload in overloads)
        assert fits, f"{name}({expected}): {overloads}"


def test_cuda_functions_are_called_as_the_bindings_have_them() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    used = set(
        re.findall(
            r"runtime\.(cuda[A-Z]\w+)", (ROOT / "serving" / "engines" / "cuda.py").read_text()
        )
    )
    assert [name for name in used if not hasattr(runtime, name)] == []
    assert {name for name in used if callable(getattr(runtime, name))} - set(CUDA) == {
        "cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode",
    }  # fmt: skip
    for name, expected in CUDA.items():
        signature = getattr(runtime, name).__doc__.splitlines()[0]
        inside = signature.partition("(")[2].rpartition(")")[0]
        names = [re.split(r"[: ]", part.strip())[0] for part in inside.split(",") if part.strip()]
        plain = [
            part.strip().split(":")[0].split()[-1] for part in inside.split(",") if part.strip()
        ]
        assert expected.split() in (names, plain), f"{name}: {signature}"
