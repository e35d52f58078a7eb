"""helm and kubectl for pages that speak of a cluster, where there is none.

What needs no cluster is done by the real programs, `helm template` and its like. What a cluster
would get is made by them too (`helm template` for install and upgrade, `kubectl create
--dry-run=client`), judged by kubernetes-validate with the schemas of Kubernetes, and kept in the
home folder; whatever the pods of a release need (claims, Secrets, ConfigMaps) must be there by
then. Commands that only look at something want it to be there. A port that is forwarded leads to
a server of the models that were copied into the claim.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.helm.tools import program

KUBERNETES = "1.34.0"
STORE = Path.home() / "cluster.yaml"
RELEASES = Path.home() / "releases.json"
IMAGES = Path.home() / "images"
FILES = Path.home() / "files"
# Long and short names by which kubectl's callers know a kind.
KINDS = {
    "deploy": "Deployment", "deployment": "Deployment", "job": "Job", "pod": "Pod", "po": "Pod",
    "pvc": "PersistentVolumeClaim", "secret": "Secret", "svc": "Service", "service": "Service",
    "configmap": "ConfigMap", "cm": "ConfigMap",
}  # fmt: skip
# What stands in a pod's volumes and environment for a resource that must be there.
REFERENCES = {
    ("secret", "secretName"): "Secret",
    ("configMap", "name"): "ConfigMap",
    ("persistentVolumeClaim", "claimName"): "PersistentVolumeClaim",
    ("secretKeyRef", "name"): "Secret",
    ("secretRef", "name"): "Secret",
}
Resource = dict[str, Any]


def main() -> None:
    match sys.argv[1:]:
        case ["helm", "install" | "upgrade" as verb, name, chart, *options]:
            install(verb, name, chart, options)
        case ["helm", "test" | "rollback" | "uninstall" | "status" as verb, name, *_]:
            if name not in releases():
                sys.exit(f"Error: release: not found: {name}")
            print(f"NAME: {name}\nSTATUS: {verb} is left to a cluster")
        case ["helm", *rest]:
            sys.exit(subprocess.run([program("helm"), *rest], check=False).returncode)
        case ["kubectl", "create", *rest]:
            text = output("kubectl", "create", *rest, "--dry-run=client", "--output", "yaml")
            keep(text)
        case ["kubectl", "apply", "-f" | "--filename", file]:
            keep(Path(file).read_text())
        case ["kubectl", "cp", source, target]:
            if not Path(source).exists():
                sys.exit(f"error: {source} doesn't exist in local filesystem")
            pod, _, place = target.partition(":")
            find("pod", pod)
            shutil.copytree(source, FILES / place.removeprefix("/"))
        case ["kubectl", "delete", kind, name]:
            gone = find(kind, name)
            store([one for one in stored() if one != gone])
            print(f'{kind} "{name}" deleted')
        case ["kubectl", "port-forward", name, *_]:
            look([name])
            os.dup2(os.open(FILES / "pod.log", os.O_CREAT | os.O_WRONLY), sys.stderr.fileno())
            arguments = ["serve", "--model-repository", str(FILES / "models")]
            os.execvp("convserve", ["convserve", *arguments])
        case ["docker", "build", "--target", stage, "--tag", image, folder]:
            if f" AS {stage}\n" not in (Path(folder) / "Dockerfile").read_text():
                sys.exit(f"target stage {stage!r} could not be found")
            images = IMAGES.read_text() if IMAGES.exists() else ""
            IMAGES.write_text(f"{images}{image}\n")
        case ["docker", "push", image]:
            if not IMAGES.exists() or image not in IMAGES.read_text().splitlines():
                sys.exit(f"An image does not exist locally with the tag: {image}")
        case ["kubectl", *rest]:
            look(rest)
        case other:
            sys.exit(f"cluster.py knows nothing of {' '.join(other)}")


def install(verb: str, name: str, chart: str, options: list[str]) -> None:
    """Renders a release, checks that the cluster would take it, and keeps what it consists of."""
    if (verb == "install") == (name in releases()):
        sys.exit("Error: cannot reuse a name that is still in use" if verb == "install"
                 else f'Error: UPGRADE FAILED: "{name}" has no deployed releases')  # fmt: skip
    given = [option for option in options if option not in ("--wait", "--install")]
    text = output("helm", "template", name, chart, "--kube-version", KUBERNETES, *given)
    keep(text, quiet=True)
    there = {(one["kind"], one["metadata"]["name"]) for one in stored()}
    absent = sorted({wanted for one in parse(text) for wanted in needs(one)} - there)
    if absent:
        listed = ", ".join(f"{kind} {name}" for kind, name in absent)
        sys.exit(f"pods would wait for what is not there: {listed}")
    RELEASES.write_text(json.dumps(sorted({*releases(), name})))
    print(f"NAME: {name}\nSTATUS: deployed")


def needs(resource: Any) -> set[tuple[str, str]]:
    """Kind and name of everything that the pods of a resource refer to, unless it is optional."""
    found = set()
    if isinstance(resource, dict):
        for (key, field), kind in REFERENCES.items():
            inner = resource.get(key)
            if isinstance(inner, dict) and field in inner and not inner.get("optional"):
                found.add((kind, inner[field]))
        for value in resource.values():
            found |= needs(value)
    elif isinstance(resource, list):
        for value in resource:
            found |= needs(value)
    return found


def look(words: list[str]) -> None:
    """A command that reads: its KIND/NAME, or KIND NAME, must be there."""
    named = [word for word in words if not word.startswith("-")]
    for word in named:
        kind, slash, name = word.partition("/")
        if slash and kind in KINDS:
            found = find(kind, name)
            print(f"{found['kind'].lower()}/{found['metadata']['name']}")
            return
    kinds = [word for word in named if word.removesuffix("s") in KINDS]
    if not kinds:
        sys.exit(f"cluster.py cannot check: kubectl {' '.join(words)}")
    kind = KINDS[kinds[0].removesuffix("s")]
    if kind == "Pod":
        kind = "Deployment"  # whose pods there are
    there = [one["metadata"]["name"] for one in stored() if one["kind"] == kind]
    if not there:
        sys.exit(f"No resources found: {kind}")
    print("\n".join(there))


def find(kind: str, name: str, among: list[Resource] | None = None) -> Resource:
    for one in stored() if among is None else among:
        if (one["kind"], one["metadata"]["name"]) == (KINDS[kind], name):
            return one
    sys.exit(f'Error from server (NotFound): {kind} "{name}" not found')


def keep(text: str, quiet: bool = False) -> None:
    """Adds resources that Kubernetes' schemas allow."""
    file = Path.home() / "rendered.yaml"
    file.write_text(text)
    output("kubernetes-validate", "--strict", "-k", KUBERNETES, str(file))
    made = parse(text)
    new = {(one["kind"], one["metadata"]["name"]) for one in made}
    store([one for one in stored() if (one["kind"], one["metadata"]["name"]) not in new] + made)
    for kind, name in () if quiet else sorted(new):
        print(f"{kind.lower()}/{name} created")


def output(name: str, *arguments: str) -> str:
    """What a program prints; its failure is ours."""
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def parse(text: str) -> list[Resource]:
    return [one for one in yaml.safe_load_all(text) if one]


def stored() -> list[Resource]:
    return parse(STORE.read_text()) if STORE.exists() else []


def store(resources: list[Resource]) -> None:
    STORE.write_text(yaml.safe_dump_all(resources))


def releases() -> set[str]:
    return set(json.loads(RELEASES.read_text())) if RELEASES.exists() else set()


if __name__ == "__main__":
    main()
