"""Lists the Python packages of an image in a CycloneDX 1.6 document; runs inside the image."""

import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any


def bill_of_materials() -> dict[str, Any]:
    """Every installed distribution; the same image always gives the same document."""
    components = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        version = distribution.version
        package: dict[str, Any] = {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "bom-ref": f"pkg:pypi/{name}@{version}",
        }
        expression = distribution.metadata.json.get("license_expression")
        if expression:
            package["licenses"] = [{"expression": expression}]
        components[name] = package
    image = components.pop("convserve")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**image, "type": "application"}},
        "components": [components[name] for name in sorted(components)],
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(bill_of_materials(), indent=1) + "\n")
