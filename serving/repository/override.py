"""A model folder made of the parameters of a load call: another config, or other files."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import json_format, text_format

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidInput, quoted
from serving.base.text import one_line
from serving.repository.model_config import CONFIG_FILE

# A version has 18 digits at most, as in the repository: a folder with more is none.
_FILE = re.compile(r"file:(?P<path>[1-9][0-9]{0,17}/[^/\\]+)")


def stage_override(
    name: str, parameters: Mapping[str, str | bytes], repository: Path
) -> "tempfile.TemporaryDirectory[str]":
    """A folder of its own with the model NAME in it, as `write_override` writes it; whoever gets it
    cleans it up. Raises InvalidInput and leaves nothing behind then."""
    staged = tempfile.TemporaryDirectory(prefix="convserve-", ignore_cleanup_errors=True)
    try:
        write_override(name, parameters, repository, Path(staged.name))
    except BaseException:
        staged.cleanup()
        raise
    return staged


def write_override(
    name: str, parameters: Mapping[str, str | bytes], repository: Path, target: Path
) -> Path:
    """Writes target/NAME from the parameters `config` (the whole config as JSON) and
    `file:<version>/<name>` (a file's content). Without files, links lead to the versions in the
    repository; with files, the model has no others, and a config must come with them.

    Raises InvalidInput for another parameter, a config that does not parse, or a path that leaves
    the version's folder.
    """
    folder = target / name
    folder.mkdir(parents=True)
    files = {key: value for key, value in parameters.items() if key.startswith("file:")}
    unknown = sorted(set(parameters) - set(files) - {"config"})
    if unknown:
        raise InvalidInput(f"load parameters: expected config and file:..., got {quoted(unknown)}")
    if "config" not in parameters:
        raise InvalidInput("load parameters: files need a config beside them")
    (folder / CONFIG_FILE).write_text(_as_text(name, parameters["config"]))
    for key, content in files.items():
        match = _FILE.fullmatch(key)
        if match is None or match["path"].endswith(("/.", "/..")):
            raise InvalidInput(f"load parameter {quoted(key)}: expected file:<version>/<name>")
        if not isinstance(content, bytes):
            raise InvalidInput(f"load parameter {quoted(key)}: expected bytes")
        path = folder / match["path"]
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput(
                f"load parameter {quoted(key)}: cannot be written: {reason}"
            ) from error
    if not files:
        for child in (repository / name).iterdir():
            if child.name != CONFIG_FILE:
                (folder / child.name).symlink_to(child.resolve())
    return folder


def _as_text(name: str, config: str | bytes) -> str:
    proto = pb.ModelConfig()
    try:
        if not isinstance(json.loads(config), dict):
            raise ValueError("expected a JSON object")  # the parser takes an empty list for one
        json_format.Parse(config, proto)
    except Exception as error:  # json_format passes on more than its ParseError
        reason = one_line(str(error))
        raise InvalidInput(f"load parameter 'config' of {name!r}: {reason}") from error
    # A config that was read from a server has a name, but the folder's name counts.
    proto.ClearField("name")
    return text_format.MessageToString(proto)
