"""A model folder made of the parameters of a load call: another config, or other files."""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import json_format, text_format

from protos.gen import model_config_pb2 as pb
from serving.base.errors import InvalidInput, quoted
from serving.base.files import find_file, is_plain_name, read_file
from serving.base.text import one_line
from serving.repository.config_checks import WARMUP_FOLDER
from serving.repository.config_limits import CONFIG_BYTES
from serving.repository.layout import scan_model
from serving.repository.model_config import CONFIG_FILE
from serving.repository.temporary import TemporaryFolder

# A version has 18 digits at most, as in the repository: a folder with more is none.
_FILE = re.compile(r"file:(?P<version>[1-9][0-9]{0,17})/(?P<name>.*)", re.DOTALL)
# Files of one call; a model has a handful. Their bytes are bounded by those of a message.
_MAX_FILES = 100


def stage_override(
    name: str, parameters: Mapping[str, str | bytes], repository: Path
) -> TemporaryFolder:
    """A folder of its own with the model NAME in it, as `write_override` writes it; whoever gets it
    closes it. Raises InvalidInput and leaves nothing behind then."""
    staged = TemporaryFolder()
    try:
        write_override(name, parameters, repository, staged.path)
    except OSError as error:
        staged.close()
        where = error.filename or staged.path
        raise InvalidInput(f"load parameters: {where}: {error.strerror}") from error
    except BaseException:
        staged.close()
        raise
    return staged


def write_override(
    name: str, parameters: Mapping[str, str | bytes], repository: Path, target: Path
) -> Path:
    """Writes target/NAME from the parameters `config` (the whole config as JSON) and
    `file:<version>/<name>` (a file's content). Without files, links lead to the versions in the
    repository, and the files that the config names are copied; with files, the model has no others,
    and a config must come with them.

    Raises InvalidInput for another parameter, too many of them, a config that does not parse, or a
    path that leaves the version's folder; OSError where a file cannot be read or written.
    """
    folder = target / name
    folder.mkdir(parents=True)
    files = {key: value for key, value in parameters.items() if key.startswith("file:")}
    unknown = sorted(set(parameters) - set(files) - {"config"})
    if unknown:
        raise InvalidInput(f"load parameters: expected config and file:..., got {quoted(unknown)}")
    if "config" not in parameters:
        raise InvalidInput("load parameters: files need a config beside them")
    if len(files) > _MAX_FILES:
        raise InvalidInput(
            f"load parameters: expected at most {_MAX_FILES} files, got {len(files)}"
        )
    config = _parsed(name, parameters["config"])
    (folder / CONFIG_FILE).write_text(text_format.MessageToString(config))
    for key, content in files.items():
        match = _FILE.fullmatch(key)
        if match is None or not is_plain_name(match["name"]):
            raise InvalidInput(f"load parameter {quoted(key)}: expected file:<version>/<name>")
        if not isinstance(content, bytes):
            raise InvalidInput(f"load parameter {quoted(key)}: expected bytes")
        (folder / match["version"]).mkdir(exist_ok=True)
        (folder / match["version"] / match["name"]).write_bytes(content)
    if not files:
        _take_over(repository / name, folder, config)
    return folder


def _take_over(model: Path, folder: Path, config: pb.ModelConfig) -> None:
    """Links the versions of a model into `folder`, and copies the files beside them that its config
    names; the load misses a file that is not there."""
    for version in scan_model(model).versions:
        (folder / str(version)).symlink_to((model / str(version)).absolute())
    for output in config.output:
        _copy(model, folder, output.label_filename, model)
    for warmup in config.model_warmup:
        for given in warmup.inputs.values():
            _copy(model / WARMUP_FOLDER, folder / WARMUP_FOLDER, given.input_data_file, model)


def _copy(source: Path, target: Path, name: str, home: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if is_plain_name(name):  # the load refuses others
            content = read_file(find_file(source, name, home))
            target.mkdir(exist_ok=True)
            (target / name).write_bytes(content)


def _parsed(name: str, config: str | bytes) -> pb.ModelConfig:
    proto = pb.ModelConfig()
    if len(config) > CONFIG_BYTES:
        raise InvalidInput(
            f"load parameter 'config' of {quoted(name)}: expected at most {CONFIG_BYTES} bytes, "
            f"got {len(config)}"
        )
    try:
        if not isinstance(json.loads(config), dict):
            raise ValueError("expected a JSON object")  # the parser takes an empty list for one
        json_format.Parse(config, proto)
    except Exception as error:  # json_format passes on more than its ParseError
        reason = one_line(str(error))
        raise InvalidInput(f"load parameter 'config' of {quoted(name)}: {reason}") from error
    # A config that was read from a server has a name, but the folder's name counts.
    proto.ClearField("name")
    return proto
