"""What each call of tests/support/protocol_calls.py comes to, as NVIDIA Triton documents it."""

from dataclasses import dataclass
from typing import Any

from tests.support.protocol_calls import OTHER_KEY, PAGE, REGION_BYTES, REGION_KEY, SERVED
from tests.support.triton_clients import Failed, Session

HTTP_STATUS = {"INVALID_ARGUMENT": "400", "NOT_FOUND": "404", "UNIMPLEMENTED": "501"}


@dataclass(frozen=True)
class Refused:
    """A call that fails with a code, and says something. A stream's answers have no code."""

    code: str
    said: str

    def check(self, session: Session, method: str, found: Any) -> None:
        assert isinstance(found, Failed), found
        streamed = "stream" in method
        code = self.code if session.over_grpc else HTTP_STATUS[self.code]
        assert found.status == ("" if streamed else code)
        assert self.said in found.message


@dataclass(frozen=True)
class PerWire:
    """Messages over gRPC and JSON over REST are not of one shape everywhere."""

    grpc: Any
    rest: Any

    def check(self, session: Session, method: str, found: Any) -> None:
        assert found == (self.grpc if session.over_grpc else self.rest)


def regions(**held: tuple[str, int, int]) -> PerWire:
    """The status of system shared memory, by name: key, offset, size."""
    lines = [
        {"name": name, "key": key, "offset": offset, "byte_size": size}
        for name, (key, offset, size) in held.items()
    ]
    return PerWire({"regions": {line["name"]: line for line in lines}}, lines)


def traces(**changed: str) -> PerWire:
    """The trace settings, where they are not the defaults."""
    settings = {
        "trace_level": "OFF",
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
        "trace_file": "",
        "trace_mode": "triton",
    } | changed
    return PerWire(
        {"settings": {name: {"value": [value]} for name, value in settings.items()}},
        settings | {"trace_level": [settings["trace_level"]]},
    )


def logs(**changed: bool | int | str) -> PerWire:
    """The log settings, where they are not the defaults."""
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    settings: dict[str, bool | int | str] = {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
        **changed,
    }
    return PerWire(
        {"settings": {name: {kinds[type(v)]: v} for name, v in settings.items()}}, settings
    )


@dataclass(frozen=True)
class Answered:
    """An answer to an inference."""

    array: list[Any]
    datatype: str = "FP32"
    id: str = ""

    def check(self, session: Session, method: str, found: Any) -> None:
        shape = [len(self.array), len(self.array[0])]
        output = {"name": "logits", "datatype": self.datatype, "shape": shape, "array": self.array}
        if session.over_grpc:
            # A stream may answer a request several times: every answer says whether it is the last.
            final = {"triton_final_response": {"bool_param": True}}
            assert found == {
                "model_name": SERVED,
                "model_version": "1",
                "id": self.id,
                "parameters": final if "stream" in method else {},
                "outputs": [{**output, "parameters": {}}],
            }
            return
        size = 4 * shape[0] * shape[1]
        if self.datatype == "BYTES":
            size += sum(len(element) for row in self.array for element in row)
        assert found == {
            "model_name": SERVED,
            "model_version": "1",
            **({"id": self.id} if self.id else {}),
            "outputs": [{**output, "parameters": {"binary_data_size": size}}],
        }


LOGITS = [[10.0, 5.0, 1.0], [1.0, 10.0, 5.0]]
RANKED = [
    [b"10.000000:0:red", b"5.000000:1:green", b"1.000000:2:blue"],
    [b"10.000000:1:green", b"5.000000:2:blue", b"1.000000:0:red"],
]
NO_VERSION = Refused("NOT_FOUND", "'colours' has no version '9'")
NO_MODEL = Refused("NOT_FOUND", "no model 'nothing'")
INFERENCES: dict[str, Any] = {
    "two rows": Answered(LOGITS),
    "an id": Answered(LOGITS, id="abc-1"),
    "a version": Answered(LOGITS),
    "an output by name": Answered(LOGITS),
    "two best classes": Answered([row[:2] for row in RANKED], "BYTES"),
    "more classes than there are": Answered(RANKED, "BYTES"),
    "a priority": Answered(LOGITS),
    "a long timeout": Answered(LOGITS),
    "a parameter of one's own": Answered(LOGITS),
    "a sequence": Answered(LOGITS),
    "an unknown model": NO_MODEL,
    "an unknown version": NO_VERSION,
    "a version that is no number": Refused("NOT_FOUND", "no version 'one'"),
    "no input": Refused("INVALID_ARGUMENT", "input 'image' of model 'colours' is missing"),
    "an unknown input": Refused("INVALID_ARGUMENT", "has no input 'picture'"),
    "an input too many": Refused("INVALID_ARGUMENT", "has no input 'picture'"),
    "an input twice": Refused("INVALID_ARGUMENT", "input 'image' is given twice"),
    "another datatype": Refused("INVALID_ARGUMENT", "expected UINT8"),
    "another shape": Refused("INVALID_ARGUMENT", "[-1, 8, 8, 3], got UINT8 [2, 4, 8, 3]"),
    "a dimension too few": Refused("INVALID_ARGUMENT", "[-1, 8, 8, 3], got UINT8 [8, 8, 3]"),
    "more rows than max_batch_size": Refused("INVALID_ARGUMENT", "expected 1 to 8 rows"),
    "no rows": Refused("INVALID_ARGUMENT", "expected 1 to 8 rows"),
    "an unknown output": Refused("INVALID_ARGUMENT", "has no output 'scores'"),
}


def check_server_metadata(session: Session, found: Any) -> None:
    assert found["name"] == "convserve"
    assert found["version"][0].isdecimal()
    assert set(found["extensions"]) >= {
        *("classification", "model_repository", "schedule_policy", "model_configuration"),
        *("system_shared_memory", "binary_tensor_data", "parameters", "statistics"),
        *("trace", "logging"),
    }
    # Not offered, so not promised.
    assert not {"sequence", "cuda_shared_memory"} & set(found["extensions"])


def check_config(session: Session, found: Any) -> None:
    config = found["config"] if session.over_grpc else found
    assert (config["name"], config["platform"]) == (SERVED, "onnxruntime_onnx")
    assert config["max_batch_size"] == 8
    [image], [logits] = config["input"], config["output"]
    assert (image["name"], image["data_type"], image["dims"]) == ("image", "TYPE_UINT8", [8, 8, 3])
    assert (logits["name"], logits["data_type"], logits["dims"]) == ("logits", "TYPE_FP32", [3])
    assert logits["label_filename"] == "labels.txt"
    assert "dynamic_batching" in config
    assert config["parameters"]["task"] == {"string_value": "classification"}


def check_statistics(session: Session, found: Any) -> None:
    duration = {"count": "int", "ns": "int"}
    computed = ("compute_input", "compute_infer", "compute_output")
    kinds = ("success", "fail", "queue", *computed, "cache_hit", "cache_miss")
    [statistics] = found["model_stats"]
    # One of the batches is shown by its types.
    assert statistics == {
        "name": SERVED,
        "version": "1",
        "last_inference": "int",
        "inference_count": "int",
        "execution_count": "int",
        "inference_stats": dict.fromkeys(kinds, duration),
        "response_stats": {},
        "batch_stats": [{"batch_size": "int", **dict.fromkeys(computed, duration)}],
        "memory_usage": [],
    }


def check_through_memory(session: Session, found: Any) -> None:
    assert found["memory"] == [LOGITS[0]]
    [output] = found["answer"]["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [1, 3])
    assert "data" not in output
    if session.over_grpc:
        assert found["answer"]["raw_output_contents"] == [b""]


def check_wrong_type(session: Session, found: Any) -> None:
    if session.over_grpc:  # the client itself makes a bool of it
        assert found == logs().grpc
    else:
        refused = Refused("INVALID_ARGUMENT", "'log_info': expected bool, got 1")
        refused.check(session, "update_log_settings", found)


METADATA = {
    "name": SERVED,
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}],
}
GONE = {"ready": False, "states": ["UNAVAILABLE"]}
THERE = {"ready": True, "states": ["READY"]}
NO_CUDA = Refused("UNIMPLEMENTED", "no engine on a GPU")
PLUGIN = {"headers of a call": {"registered": True, "live": True, "calls": 1}}
STREAM = {"five calls, one fails": ["0", "1", "failed", "3", "4"]}
BY_HAND = {"posted by hand": Answered(LOGITS, id="by hand")}
BOTH = {"one": (REGION_KEY, 0, REGION_BYTES), "two": (OTHER_KEY, 0, REGION_BYTES)}

# What each call comes to: the answer itself, something that checks it, or how it is refused.
EXPECTED: dict[str, dict[str, Any]] = {
    "is_server_live": {"the server": True},
    "is_server_ready": {"the server": True},
    "is_model_ready": {
        "a model": True,
        "a version": True,
        "an unknown version": False,
        "an unknown model": False,
    },
    "get_server_metadata": {"the server": check_server_metadata},
    "get_model_metadata": {
        "a model": METADATA,
        "a version": METADATA,
        "an unknown version": NO_VERSION,
        "an unknown model": NO_MODEL,
    },
    "get_model_config": {
        "a model": check_config,
        "an unknown version": NO_VERSION,
        "an unknown model": NO_MODEL,
    },
    "get_model_repository_index": {
        "a model that serves": ["READY"],
        "a model that was never loaded": [""],
    },
    "get_inference_statistics": {
        "a model": check_statistics,
        "a version": check_statistics,
        "all": check_statistics,
        "an unknown version": NO_VERSION,
        "an unknown model": NO_MODEL,
    },
    "load_model": {
        "a model": THERE,
        "again": THERE,
        "another config": 3,
        "a config that is not JSON": Refused("INVALID_ARGUMENT", "'config' of 'spare'"),
        "an unknown model": Refused("NOT_FOUND", "no folder 'nothing'"),
    },
    "unload_model": {
        "a model": GONE,
        "again": GONE,
        "with dependents": None,
        "an unknown model": NO_MODEL,
        "loaded again": THERE,
    },
    "get_trace_settings": {
        "the server": traces(),
        "a model": traces(),
        "an unknown model": NO_MODEL,
    },
    "update_trace_settings": {
        "two settings": traces(trace_rate="500", trace_count="5"),
        "a level without a file": Refused("INVALID_ARGUMENT", "'trace_file'"),
        "of a model": traces(trace_rate="250", trace_count="5"),
        "back to the server's": traces(trace_rate="500", trace_count="5"),
        "back to the defaults": traces(),
        "a rate that is no number": Refused("INVALID_ARGUMENT", "'trace_rate'"),
        "an unknown level": Refused("INVALID_ARGUMENT", "got ['ALL']"),
        "an unknown setting": Refused("INVALID_ARGUMENT", "'trace_colour'"),
    },
    "get_log_settings": {"the server": logs()},
    "update_log_settings": {
        "the verbose level": logs(log_verbose_level=1),
        "off and on again": logs(log_verbose_level=1, log_info=False),
        "back": logs(),
        "another format": logs(log_format="ISO8601"),
        "the default format": logs(),
        "an unknown format": Refused("INVALID_ARGUMENT", "'verse'"),
        "a wrong type": check_wrong_type,
        "an unknown setting": Refused("INVALID_ARGUMENT", "'log_colour'"),
    },
    "register_system_shared_memory": {
        "a region": regions(region=(REGION_KEY, 0, REGION_BYTES)),
        "a part of an object": regions(region=(REGION_KEY, PAGE, 8)),
        "a name in use": Refused("INVALID_ARGUMENT", "registered already"),
        "past the end": Refused("INVALID_ARGUMENT", f"has {REGION_BYTES}"),
        "an object that is not there": Refused("INVALID_ARGUMENT", "cannot be opened"),
        "tensors": check_through_memory,
    },
    "get_system_shared_memory_status": {
        "none": regions(),
        "one": regions(one=(REGION_KEY, PAGE, 8)),
        "an unknown region": Refused("INVALID_ARGUMENT", "no shared memory region 'two'"),
    },
    "unregister_system_shared_memory": {
        "one": regions(two=BOTH["two"]),
        "all": regions(),
        "an unknown region": regions(**BOTH),
    },
    "get_cuda_shared_memory_status": {"none": regions(), "an unknown region": regions()},
    "register_cuda_shared_memory": {"a region": NO_CUDA},
    "unregister_cuda_shared_memory": {"all": None, "an unknown region": NO_CUDA},
    "register_plugin": PLUGIN,
    "plugin": PLUGIN,
    "unregister_plugin": PLUGIN,
    "generate_request_body": BY_HAND,
    "parse_response_body": BY_HAND,
    "start_stream": STREAM,
    "stop_stream": STREAM,
    "close": {"a client": "closed"},
    **dict.fromkeys(("infer", "async_infer", "async_stream_infer", "stream_infer"), INFERENCES),
}
