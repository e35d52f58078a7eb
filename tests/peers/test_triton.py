"""The same calls to NVIDIA Triton and to our server: the answers are compared field by field, and
docs/protocol.md must list every difference, and none that is not."""

import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.helm.tools import free_ports
from tests.peers.triton import COLOURS, IDENTITY, ROOT, TritonProcess, missing, write_python_model
from tests.support.identity import VALUES, identity_config, publish_identity
from tests.support.process import TOKEN, ServerProcess, token_flags
from tests.support.protocol_calls import CALLS, GAIN, IDLE, SERVED, SPARE
from tests.support.published import config, publish
from tests.support.triton_clients import WIRES, Failed, Session, outcome, public_methods

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]

DOCUMENT = ROOT / "docs" / "protocol.md"
# Neither ONNX Runtime nor Triton's Python backend hands BF16 to Python.
KINDS = [kind for kind in VALUES if kind != "BF16"]
ABSENT = "absent"
SHOWN = 48


class Row(NamedTuple):
    """A line of the document's table."""

    calls: str
    about: str
    wires: str
    field: str
    triton: str
    ours: str


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    """Triton with the models of `ours`, in Python."""
    repository = tmp_path_factory.mktemp("triton")
    described = config("classification").split("\n", 1)[1]  # all but the platform
    for name in (SERVED, SPARE, IDLE):
        write_python_model(repository, name, COLOURS, described)
        (repository / name / "labels.txt").write_text("red\ngreen\nblue\n")
    write_python_model(repository, "identity", IDENTITY, identity_config(KINDS))
    models = [SERVED, SPARE, "identity"]
    log = tmp_path_factory.mktemp("log") / "triton.log"
    process = TritonProcess(repository, models, free_ports(3), log)
    try:
        yield process.wait_ready()
    finally:
        process.stop()


@pytest.fixture(scope="module")
def ours(
    tmp_path_factory: pytest.TempPathFactory, cache: Path, wire: str
) -> Iterator[ServerProcess]:
    """Our server, with ONNX Runtime, over each wire of gRPC."""
    repository = tmp_path_factory.mktemp("ours")
    for name in (SERVED, SPARE, IDLE):
        publish(repository, name, gain=GAIN, engines=("onnxruntime",))
    publish_identity(repository, "identity", KINDS)
    flags = ("--model-control", "explicit", "--allow-ungated", "--engine", "onnxruntime")
    server = ServerProcess(repository, *flags, *token_flags(repository), cache=cache)
    with closing(Session("grpc", server.admin, server.http)) as session:
        for name in (SERVED, SPARE, "identity"):
            session.call("load_model", name)
    yield server
    server.kill()


def observe(wire: str, server: TritonProcess | ServerProcess) -> dict[tuple[str, str], Any]:
    """What every call comes to, by method and what it is about. Triton passes over the token."""
    found = {}
    with closing(Session(wire, server.url, server.http, TOKEN)) as session:
        for method in sorted(public_methods(wire)):
            for about, call in CALLS[method].items():
                answer = outcome(call, session)
                if isinstance(answer, dict) and answer.keys() == {"config"}:
                    answer = answer["config"]  # which REST gives without a frame
                found[method, about] = answer
    return found


def differences(theirs: Any, ours: Any, path: str = "") -> dict[str, tuple[str, str]]:
    """Where two answers differ, by path: what each says there. Of failures the text is free."""
    if isinstance(theirs, Failed) and isinstance(ours, Failed):
        return {} if theirs.status == ours.status else {"code": (theirs.status, ours.status)}
    if isinstance(theirs, Failed) or isinstance(ours, Failed):
        return {"outcome": (_outcome(theirs), _outcome(ours))}
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return {
            where: pair
            for key in sorted(theirs.keys() | ours.keys(), key=str)
            for where, pair in differences(
                theirs.get(key, ABSENT), ours.get(key, ABSENT), f"{path}.{key}" if path else key
            ).items()
        }
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        return {
            where: pair
            for index, (their, our) in enumerate(zip(theirs, ours, strict=True))
            for where, pair in differences(their, our, f"{path}[{index}]").items()
        }
    return {} if theirs == ours else {path or "answer": (_shown(theirs), _shown(ours))}


def _outcome(found: Any) -> str:
    return f"refused {found.status}".strip() if isinstance(found, Failed) else "answered"


def _shown(value: Any) -> str:
    text = (str(value) or '""').replace("\n", " ")
    return text if len(text) <= SHOWN else "long"


def rows(triton: TritonProcess, ours: ServerProcess) -> set[Row]:
    """Every difference, one row for all calls and wires that show it."""
    seen: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for wire in WIRES:
        theirs, our = observe(wire, triton), observe(wire, ours)
        family = "gRPC" if wire.startswith("grpc") else "REST"
        for (method, about), answer in theirs.items():
            for field, pair in differences(answer, our[method, about]).items():
                if field != "version":  # of the server: each has its own
                    seen[about, field, *pair][method].add(family)
    found = set()
    for (about, field, their, our_answer), methods in seen.items():
        by_wires = defaultdict(list)
        for method, families in methods.items():
            by_wires[", ".join(sorted(families))].append(method)
        for wires, calls in by_wires.items():
            found.add(Row(", ".join(sorted(calls)), about, wires, field, their, our_answer))
    return found


def documented() -> set[Row]:
    """The rows of the document's table of differences, without their reasons."""
    section = DOCUMENT.read_text().split("## Differences from Triton", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    cells = [[cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in lines]
    return {Row(*line[:6]) for line in cells[1:] if not re.fullmatch("-+", line[0])}


def test_every_difference_is_documented(triton: TritonProcess, ours: ServerProcess) -> None:
    found, listed = rows(triton, ours), documented()
    new = "\n".join(" | ".join(row) for row in sorted(found - listed))
    stale = "\n".join(" | ".join(row) for row in sorted(listed - found))
    assert not new, f"not in {DOCUMENT.name}:\n{new}"
    assert not stale, f"in {DOCUMENT.name}, but not so:\n{stale}"


@pytest.mark.parametrize("client", list(WIRES))
def test_every_datatype_comes_back_alike(
    triton: TritonProcess, ours: ServerProcess, client: str
) -> None:
    answers = []
    for server in (triton, ours):
        with closing(Session(client, server.url, server.http)) as session:
            inputs = [session.input(f"in_{kind}", VALUES[kind], kind) for kind in KINDS]
            wanted = [session.triton.InferRequestedOutput(f"out_{kind}") for kind in KINDS]
            answers.append(outcome(session.call, "infer", "identity", inputs, outputs=wanted))
    for answer in answers:
        # In whatever order: clients look for an output by its name.
        answer["outputs"].sort(key=lambda output: output["name"])
    assert differences(*answers) == {}


def test_triton_reads_the_configs_that_builds_publish(
    tmp_path: Path, triton: TritonProcess
) -> None:
    """Its build has no backend for them: what it says of a file that it has read is that."""
    repository = tmp_path / "repository"
    publish(repository, "published")
    for published in sorted((ROOT / "model_repo").glob("*/config.pbtxt")):
        shutil.copytree(published.parent, repository / published.parent.name)
    names = [path.name for path in sorted(repository.iterdir())]
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "config.pbtxt").write_text("max_batch_sise: 3\n")
    process = TritonProcess(repository, [], free_ports(3), tmp_path / "log")
    try:
        process.wait_ready()
        for name in names:
            assert "unable to find backend library for backend 'onnxruntime'" in process.load(name)
        assert "failed to poll from model repository" in process.load("broken")
        assert "failed to read text proto" in process.log.read_text()
    finally:
        process.stop()
