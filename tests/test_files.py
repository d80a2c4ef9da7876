"""Output files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnas_zoo.errors import OutputExistsError, OutputNotWritableError, RnasZooError
from rnas_zoo.files import atomic_folder, atomic_path, sha256_file, write_json, write_text

from .strategies import reproducible


def tree(folder):
    """Every path below a folder and the bytes of its files."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def umask():
    """A function that sets the umask for the rest of the test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


# Single files


def test_a_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "er" / "out.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == target.parent
        assert temporary.suffix == ".bin"
        assert not target.exists()
    assert tree(tmp_path) == {"deep": None, "deep/er": None, "deep/er/out.bin": b"new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_interrupted_file_leaves_everything_as_it_was(tmp_path, error, old):
    target = tmp_path / "out.bin"
    if old is not None:
        target.write_bytes(old)
    before = tree(tmp_path)

    def stop_halfway():
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        stop_halfway()
    assert tree(tmp_path) == before


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with open(target, "rb") as reader, atomic_path(target) as temporary:
        temporary.write_bytes(b"new content")
        assert target.read_bytes() == b"old"
        assert tree(tmp_path).keys() == {"out.bin", temporary.name}
        assert reader.read() == b"old"
    assert tree(tmp_path) == {"out.bin": b"new content"}


@pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o000])
def test_permissions_obey_the_umask(tmp_path, umask, mask):
    umask(mask)
    write_text(tmp_path / "file", "x")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").write_text("x")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask
    assert os.umask(mask) == mask


def blocked(tmp_path):
    """Targets no user can write, root included, and what each message must say."""
    (tmp_path / "file").write_text("I am a file")
    targets = [tmp_path / "file" / "out", tmp_path / "file" / "a" / "b" / "out", tmp_path / ("x" * 300)]
    if sys.platform == "linux":
        targets.append("/proc/nothing/here/out")
    return targets


@pytest.mark.parametrize("overwrite", [False, True])
def test_unwritable_targets_are_refused_before_any_work(tmp_path, overwrite):
    worked = []
    for target in blocked(tmp_path):
        before = tree(tmp_path)
        for context in (atomic_path(target), atomic_folder(target, overwrite=overwrite)):
            with pytest.raises(OutputNotWritableError) as refused, context:
                worked.append(target)
            assert str(refused.value).startswith(f"cannot write {target}: ")
            assert "Choose an output path" in str(refused.value)
        assert tree(tmp_path) == before
    assert worked == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permission bits do not bind root")
def test_folders_without_write_permission_are_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    for context in (atomic_path(closed / "out"), atomic_folder(closed / "out")):
        with pytest.raises(OutputNotWritableError, match="Permission denied"), context:
            raise AssertionError("the block must not run")


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    target = tmp_path / "taken"
    target.mkdir()
    (target / "inside").write_text("kept")
    before = tree(tmp_path)
    with pytest.raises(OutputNotWritableError, match=r"is a folder\. Choose the path of a file"), atomic_path(target):
        raise AssertionError("the block must not run")
    with pytest.raises(OutputNotWritableError, match="is a folder"):
        write_json(target, {})
    assert tree(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_devices_and_pipes_are_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputNotWritableError, match="not a regular file"):
        write_text(pipe, "x")
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_that_appears_meanwhile_is_not_replaced_by_a_file(tmp_path):
    target = tmp_path / "out"

    def write_while_a_folder_appears():
        with atomic_path(target) as temporary:
            temporary.write_text("x")
            target.mkdir()

    with pytest.raises(OutputNotWritableError, match="cannot write"):
        write_while_a_folder_appears()
    assert tree(tmp_path) == {"out": None}


# Folders


def test_a_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "out"
    with atomic_folder(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "file").write_bytes(b"new")
        assert not target.exists()
    assert tree(tmp_path) == {"deep": None, "deep/out": None, "deep/out/sub": None, "deep/out/sub/file": b"new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_folder_leaves_everything_as_it_was(tmp_path, error, overwrite):
    target = tmp_path / "out"
    if overwrite:
        target.mkdir()
        (target / "old").write_bytes(b"old")
    before = tree(tmp_path)

    def stop_halfway():
        with atomic_folder(target, overwrite=overwrite) as temporary:
            (temporary / "half").write_bytes(b"half")
            raise error

    with pytest.raises(error):
        stop_halfway()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link", "dangling link"])
def test_an_existing_target_is_refused_and_left_as_it_is(tmp_path, kind):
    target = tmp_path / "out"
    if "folder" in kind:
        target.mkdir()
    if kind == "folder":
        (target / "old").write_bytes(b"old")
    if kind == "file":
        target.write_bytes(b"old")
    if "link" in kind:
        (tmp_path / "far").mkdir()
        target.symlink_to(tmp_path / ("nowhere" if kind == "dangling link" else "far"))
    before = tree(tmp_path)
    with pytest.raises(OutputExistsError, match="left as it is") as refused, atomic_folder(target):
        raise AssertionError("the block must not run")
    assert str(target) in str(refused.value)
    assert isinstance(refused.value, FileExistsError)
    assert tree(tmp_path) == before
    assert target.is_symlink() == ("link" in kind)


def test_a_target_that_appears_meanwhile_is_refused_and_left_as_it_is(tmp_path):
    target = tmp_path / "out"

    def write_while_another_folder_appears():
        with atomic_folder(target) as temporary:
            (temporary / "mine").write_bytes(b"mine")
            target.mkdir()
            (target / "theirs").write_bytes(b"theirs")

    with pytest.raises(OutputExistsError):
        write_while_another_folder_appears()
    assert tree(tmp_path) == {"out": None, "out/theirs": b"theirs"}


def test_overwrite_replaces_the_whole_folder(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    with atomic_folder(target, overwrite=True) as temporary:
        (temporary / "new").write_bytes(b"new")
        assert (target / "old").read_bytes() == b"old"
    assert tree(tmp_path) == {"out": None, "out/new": b"new"}
    with atomic_folder(tmp_path / "fresh", overwrite=True) as temporary:
        (temporary / "new").write_bytes(b"new")
    assert (tmp_path / "fresh" / "new").read_bytes() == b"new"


def test_overwrite_replaces_a_link_and_not_what_it_points_to(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "old").write_bytes(b"old")
    (tmp_path / "out").symlink_to(tmp_path / "far")
    with atomic_folder(tmp_path / "out", overwrite=True) as temporary:
        (temporary / "new").write_bytes(b"new")
    assert not (tmp_path / "out").is_symlink()
    assert tree(tmp_path) == {"far": None, "far/old": b"old", "out": None, "out/new": b"new"}


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failed_overwrite_puts_the_old_folder_back(tmp_path, monkeypatch, failing):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    before, calls, replace = tree(tmp_path), [], os.replace

    def fragile(source, destination):
        calls.append(source)
        if len(calls) == failing + 1:
            raise OSError(errno.EBUSY, "device busy")
        replace(source, destination)

    def overwrite_in_vain():
        with atomic_folder(target, overwrite=True) as temporary:
            (temporary / "new").write_bytes(b"new")
            monkeypatch.setattr(os, "replace", fragile)

    with pytest.raises(OutputNotWritableError, match="device busy"):
        overwrite_in_vain()
    assert len(calls) > failing
    assert tree(tmp_path) == before


# Text, JSON, digests


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "out.md", "ε ≤ 8/255\n")
    assert (tmp_path / "out.md").read_bytes() == "ε ≤ 8/255\n".encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@reproducible(60)
@given(value=json_values)
def test_json_reads_back_equal(tmp_path_factory, value):
    file = tmp_path_factory.mktemp("json") / "value.json"
    write_json(file, value)
    content = file.read_bytes()
    assert json.loads(content) == value
    assert content.endswith(b"\n")
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), [1, {"a": float("nan")}], "\ud800"])
def test_json_refuses_what_json_cannot_say(tmp_path, value):
    file = tmp_path / "value.json"
    write_json(file, {"old": 1})
    before = tree(tmp_path)
    with pytest.raises(ValueError):
        write_json(file, value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 10_000])
def test_sha256_file_is_the_digest_of_its_bytes(tmp_path, content):
    file = tmp_path / "content"
    file.write_bytes(content)
    assert sha256_file(file) == hashlib.sha256(content).hexdigest()
    assert sha256_file(str(file)) == sha256_file(file)


def test_refusals_are_errors_for_the_user():
    for error in (OutputExistsError, OutputNotWritableError):
        assert issubclass(error, RnasZooError)
        assert issubclass(error, OSError)
        assert error("message").exit_code == 2
