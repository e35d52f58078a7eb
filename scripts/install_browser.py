"""Installs Debian's Chromium, which `make test-pages` drives. Needs root, and does nothing where it
is installed."""

import os
import shutil
import subprocess

PACKAGES = ("chromium", "fonts-dejavu-core")


def main() -> None:
    """Installs by apt, in the version of the machine's release."""
    if shutil.which("chromium"):
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], env=environment, check=True)
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
