"""The class names of a model's outputs."""

from collections.abc import Mapping
from pathlib import Path

from serving.base.errors import ModelLoadError
from serving.base.text import NotText, lines_of, read_text
from serving.repository.manifest import Manifest
from serving.repository.model_config import ModelConfig


def read_labels(
    model_folder: Path, config: ModelConfig, manifest: Manifest | None
) -> dict[str, tuple[str, ...]]:
    """Class names by output, for the outputs whose config has a label_filename. For the output
    that is the answer of the task, the classes of a manifest take the place of the file.

    Raises ModelLoadError, naming the file, where it cannot be read or is not UTF-8.
    """
    files = label_files(config.label_filenames, manifest)
    classes = manifest.classes if manifest is not None else ()
    labels = {}
    for output in config.label_filenames:
        filename = files.get(output)
        if filename is None:
            labels[output] = classes
            continue
        file = model_folder / filename
        try:
            labels[output] = lines_of(read_text(model_folder, filename))
        except OSError as error:
            raise ModelLoadError(f"{file}: cannot be read: {error.strerror}") from error
        except NotText as error:
            raise ModelLoadError(f"{file}: cannot be read: {error.reason}") from error
    return labels


def label_files(given: Mapping[str, str], manifest: Manifest | None) -> dict[str, str]:
    """The label_filename of each output that is `given`, without those whose place the classes of
    the manifest take."""
    answer = manifest.answer if manifest is not None and manifest.classes else None
    return {output: file for output, file in given.items() if output != answer}
