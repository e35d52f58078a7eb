"""Protos with the comments of their files, which generated code does not keep."""

import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent.parent

# Numbers of the fields of a FileDescriptorProto, a DescriptorProto, an EnumDescriptorProto and a
# ServiceDescriptorProto, which make up the path of a location (descriptor.proto).
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED, NESTED_ENUMS = 2, 3, 4
VALUES = 2
METHODS = 2


class Commented(NamedTuple):
    """A file, and the comment at each path in it."""

    file: FileDescriptorProto
    comments: dict[tuple[int, ...], str]

    def at(self, *path: int) -> str:
        """The comment at a path; empty where there is none."""
        return self.comments.get(path, "")


@cache
def commented(name: str) -> Commented:
    """A file of protos/ with its comments."""
    well_known = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        arguments = [f"-I{ROOT / 'protos'}", f"-I{well_known}", "--include_source_info"]
        if protoc.main(["protoc", *arguments, f"--descriptor_set_out={out}", name]) != 0:
            raise RuntimeError(f"protoc failed for {name}")
        [file] = FileDescriptorSet.FromString(out.read_bytes()).file
    comments = {
        tuple(where.path): " ".join((where.leading_comments + where.trailing_comments).split())
        for where in file.source_code_info.location
    }
    return Commented(file, comments)
