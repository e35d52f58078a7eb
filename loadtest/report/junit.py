"""Writes the checks of a run as JUnit XML for CI systems."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError
from loadtest.report.checks import Check
from loadtest.report.text import printable
from serving.base.files import write_whole

_PROPERTIES = ("requests_per_second", "error_rate", "mean_batch_size", "goodput_per_second")


def write_junit(document: dict[str, Any], checks: Sequence[Check], path: Path) -> None:
    """Writes a suite for each phase with a case for each check. Raises LoadTestError."""
    root = ElementTree.Element("testsuites", name="convserve loadtest")
    for phase in document["phases"]:
        own = [c for c in checks if c.phase == phase["label"]]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=printable(phase["label"]),
            tests=str(len(own)),
            failures=str(sum(bool(c.failure) for c in own)),
            errors="0",
            time=f"{phase['seconds']:.3f}",
        )
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in _figures(phase).items():
            ElementTree.SubElement(properties, "property", name=name, value=f"{value:.6g}")
        for each in own:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=printable(f"loadtest.{phase['label']}"),
                name=printable(each.name),
            )
            if each.failure:
                ElementTree.SubElement(case, "failure", message=printable(each.failure))
    ElementTree.indent(root)
    try:
        write_whole(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    except OSError as error:
        raise LoadTestError(f"{path}: {error.strerror}") from error


def _figures(phase: dict[str, Any]) -> dict[str, float]:
    figures = {name: phase[name] for name in _PROPERTIES if phase.get(name) is not None}
    for name, found in phase["latency_ms"].items():
        if isinstance(found, dict):
            figures[f"{name}_ms"] = found["value"]
    return figures
