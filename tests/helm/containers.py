"""Real images and containers: built by buildah, run by podman, on storage of their own."""

import contextlib
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.helm.tools import ROOT, TOOLS, free_ports, missing, program, run, succeed

BASE = "localhost/convserve-base:test"
START_SECONDS = 60.0
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP_CONF = Path("/etc/pip.conf")


class Containers:
    """Builds images and runs containers. Layers stay in .tools, so a second run is quick."""

    def __init__(self) -> None:
        for name in ("buildah", "podman", "runc", "debootstrap"):
            program(name)
        if os.geteuid() != 0:
            missing("only root can make a base image")
        storage = TOOLS / "containers"
        storage.mkdir(parents=True, exist_ok=True)
        config = storage / "storage.conf"
        config.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{storage}/graph"\n'
            f'runroot = "{storage}/run"\n'
        )
        self.environment = {"CONTAINERS_STORAGE_CONF": str(config)}

    def podman(self, *arguments: str) -> str:
        """Standard output of a podman command that must succeed."""
        return succeed(["podman", "--runtime", "runc", *arguments], env=self.environment)

    def make_base(self) -> None:
        """A Debian with Python, as a base image that no registry is needed for."""
        if run("podman", "image", "exists", BASE, env=self.environment).returncode == 0:
            return
        codename = succeed(["sh", "-c", '. /etc/os-release && echo "$VERSION_CODENAME"']).strip()
        # The mirror that the machine itself is set up for.
        mirrors = succeed(
            ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {codename}"]
        ).split()
        root = TOOLS / "rootfs"
        shutil.rmtree(root, ignore_errors=True)
        packages = "--include=python3,python3-venv,ca-certificates"
        succeed(["debootstrap", "--variant=minbase", packages, codename, str(root), mirrors[0]])
        archive = TOOLS / "rootfs.tar"
        exclude = ("--exclude=./var/cache/apt/archives/*", "--exclude=./var/lib/apt/lists/*")
        succeed(["tar", "-C", str(root), *exclude, "-cf", str(archive), "."])
        self.podman("import", "--quiet", str(archive), BASE)
        archive.unlink()
        shutil.rmtree(root)

    def build(self, target: str) -> str:
        """Builds a target of the Dockerfile; the image's name."""
        self.make_base()
        image = f"localhost/convserve:{target}"
        # What the build needs to reach a package index comes from the machine, not from the file.
        machine = []
        if _CA_BUNDLE.exists():
            machine += ["--volume", f"{_CA_BUNDLE}:{_CA_BUNDLE}:ro"]
        if _PIP_CONF.exists():
            machine += ["--secret", f"id=pip.conf,src={_PIP_CONF}"]
        succeed(
            [
                *("buildah", "bud", "--isolation", "chroot", "--network", "host", "--layers"),
                # The OCI format has no HEALTHCHECK.
                *("--format", "docker", "--build-arg", f"BASE_IMAGE={BASE}"),
                *("--build-arg", "REVISION=test", "--target", target, "--tag", image),
                *machine,
                str(ROOT),
            ],
            env=self.environment,
        )
        return image

    def size_above_base(self, image: str) -> int:
        """Bytes of an image's own layers."""
        sizes = [
            json.loads(self.podman("image", "inspect", name))[0]["Size"] for name in (image, BASE)
        ]
        return int(sizes[0] - sizes[1])

    @contextlib.contextmanager
    def serving(self, image: str, models: Path, *flags: str) -> Iterator["Container"]:
        """A server that has none of the rights that a process may lack."""
        grpc_port, http_port, metrics_port = free_ports(3)
        name = f"convserve-test-{grpc_port}"
        self.podman(
            *("run", "--detach", "--name", name, "--network", "host"),
            # Without these two, runc asks for higher limits than it may set here.
            *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
            *("--memory", "1g", "--pids-limit", "300", "--read-only", "--read-only-tmpfs=false"),
            *("--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
            *("--volume", f"{models}:/models:ro", "--env", f"CONVSERVE_GRPC_PORT={grpc_port}"),
            *("--env", f"CONVSERVE_HTTP_PORT={http_port}"),
            *("--env", f"CONVSERVE_METRICS_PORT={metrics_port}", image, "serve", *flags),
        )
        try:
            yield Container(self, name, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}")
        finally:
            self.podman("rm", "--force", "--time", "0", name)


class Container:
    """One running server."""

    def __init__(self, containers: Containers, name: str, url: str, http: str) -> None:
        self._containers = containers
        self.name = name
        self.url = url
        self._http = http

    def wait_ready(self) -> "Container":
        """Returns when /readyz says so."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self._http}/readyz", timeout=5).close()
                return self
            except urllib.error.HTTPError as error:
                error.close()
            except OSError:
                pass
            assert time.monotonic() < end, self.inspect()
            time.sleep(0.1)  # between two looks at a condition that no event tells of

    def healthy(self) -> bool:
        """What HEALTHCHECK says now; its timer needs an init system, so it is asked by hand."""
        done = run(
            *("podman", "--runtime", "runc", "healthcheck", "run", self.name),
            env=self._containers.environment,
        )
        return done.returncode == 0

    def stop(self, seconds: int) -> int:
        """SIGTERM, after `seconds` SIGKILL; the exit status."""
        self._containers.podman("stop", "--time", str(seconds), self.name)
        return int(self._containers.podman("inspect", self.name, "--format", "{{.State.ExitCode}}"))

    def exec(self, *command: str) -> str:
        """Standard output of a command inside."""
        return self._containers.podman("exec", self.name, *command)

    def inspect(self) -> str:
        """Its state as podman tells it, for messages."""
        return self._containers.podman("inspect", self.name, "--format", "{{json .State}}")
