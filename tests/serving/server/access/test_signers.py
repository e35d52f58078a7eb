"""Keys of --require-signature: a file or a folder, and what is made of each change."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.base.metrics import EngineMetrics
from serving.repository.signing.keys import Keys
from serving.server.access.followed import BadFile, Followed
from serving.server.access.signers import followed_signers, read_signers
from serving.server.config import StartError
from tests.support.signed import Signer

ONE, TWO = Signer(), Signer()
FAILURES = EngineMetrics().access_failures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o755)
    (keys / "one.pub").write_text(ONE.pem)
    return keys


def looked(keys: Followed[Keys]) -> Callable[[], None] | None:
    """What two looks find, between which the files stand still."""
    return keys.follow() or keys.follow()


def test_keys_of_a_folder_come_and_go_with_its_files(folder: Path) -> None:
    keys = followed_signers(folder, FAILURES)
    assert set(keys.content) == {ONE.id}
    (folder / "two.pub").write_text(f"the next one\n{TWO.pem}")
    (folder / ".hidden").write_text("kept by Kubernetes")
    (folder / "more").mkdir()
    for left, gone in (({ONE.id, TWO.id}, "one.pub"), ({TWO.id}, "two.pub"), (set(), "")):
        take = looked(keys)
        assert take is not None
        take()
        assert set(keys.content) == left
        if gone:
            (folder / gone).unlink()


def test_mounted_secret_is_followed_by_its_links(tmp_path: Path) -> None:
    for name, signer in (("1", ONE), ("2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key.pub").write_text(signer.pem)
    mount = tmp_path / "keys"
    mount.mkdir(mode=0o755)
    (mount / "..data").symlink_to("../1")
    (mount / "key.pub").symlink_to("..data/key.pub")
    keys = followed_signers(mount, FAILURES)
    (mount / "new").symlink_to("../2")
    (mount / "new").replace(mount / "..data")
    take = looked(keys)
    assert take is not None
    take()
    assert set(keys.content) == {TWO.id}


@pytest.mark.parametrize("written", [0, 5, 20, 70, None])
def test_half_written_file_of_a_folder_withdraws_no_key(written: int | None, folder: Path) -> None:
    """It may be one that takes the place of a key: a disk was full, a copy was cut off."""
    (folder / "two.pub").write_text(TWO.pem)
    keys = followed_signers(folder, FAILURES)
    (folder / "two.pub").unlink()
    if written is None:
        (folder / "two.pub").symlink_to("nowhere")
    else:
        (folder / "two.pub").write_text(TWO.pem[:written])
    assert looked(keys) is None
    assert set(keys.content) == {ONE.id, TWO.id}
    with pytest.raises(BadFile, match=f"^{folder / 'two.pub'}: "):
        read_signers(folder)


def test_keys_of_all_files_are_counted_together(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.pub").write_text("".join(Signer().pem for _ in range(34)))
    with pytest.raises(BadFile, match=f"{folder}: expected at most 100 keys"):
        read_signers(folder)


@pytest.mark.parametrize("change", ["half", "empty", "gone", "private", "open folder", "open file"])
def test_last_keys_stay_where_they_cannot_be_read_again(change: str, folder: Path) -> None:
    path = folder if change == "open folder" else folder / "one.pub"
    keys = followed_signers(path, FAILURES)
    before = FAILURES.labels("--require-signature").value
    if change == "gone":
        path.unlink()
    elif change.startswith("open"):
        (folder / "one.pub").write_text(TWO.pem)
        path.chmod(path.stat().st_mode | 0o002)
    else:
        private, _ = TWO.write(folder, "two")
        path.write_text({"half": TWO.pem[:70], "empty": "", "private": private.read_text()}[change])
    assert looked(keys) is None
    assert set(keys.content) == {ONE.id}
    assert FAILURES.labels("--require-signature").value == before + 1


def test_file_without_a_key_is_refused_and_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "keys.pem"
    file.write_text("no key")
    with pytest.raises(BadFile, match=f"{file}: expected at least one Ed25519 public key"):
        read_signers(file)
    with pytest.raises(StartError, match=f"--require-signature: {file}: expected at least one"):
        followed_signers(file, FAILURES)
    with pytest.raises(BadFile, match="none: No such file"):
        read_signers(tmp_path / "none")


def test_folder_of_too_many_files_is_refused(folder: Path) -> None:
    for number in range(100):
        (folder / f"{number}.pub").write_text(ONE.pem)
    with pytest.raises(BadFile, match="expected at most 100 files, got 101"):
        read_signers(folder)
