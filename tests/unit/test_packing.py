"""The archive's format, and unpacking what is hostile: it stays within home and tree, and only ever says `damaged`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway.keeper.packing as packing
from gateway.keeper.packing import tarstream
from gateway.keeper.packing.tarstream import DIRECTORY, FIFO, FILE, HARD_LINK, SYMLINK, Damaged, Member, TarReader

PROGRAM = [sys.executable, "-I", "-S", str(Path(packing.__file__).parent)]
NAMES = st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"_"))
MEMBERS = st.builds(
    Member,
    name=NAMES,
    kind=st.sampled_from([HARD_LINK, SYMLINK, DIRECTORY, FIFO]),
    mode=st.integers(0, 0o7777),
    mtime_ns=st.integers(-(10**18), 10**18),
    target=st.one_of(st.just(b""), NAMES),
    xattrs=st.dictionaries(NAMES, st.binary(max_size=50), max_size=3),
)


def tar(*entries: tuple[Member, bytes], ends: bool = True, sums: bytes | None = None) -> bytes:
    """An archive of these, with the sums that they should have, unless others are given."""
    data, lines = b"", b""
    for member, content in entries:
        data += tarstream.header(member) + content + tarstream.padding(len(content))
        if member.kind == FILE:
            lines += tarstream.sum_line(hashlib.sha256(content).hexdigest(), member.name)
    lines = lines if sums is None else sums
    for name, content in ((tarstream.SUMS_NAME, lines), (tarstream.MANIFEST_NAME, b"{}")):
        data += tarstream.header(Member(name, FILE, size=len(content))) + content + tarstream.padding(len(content))
    return data + (tarstream.END if ends else b"")


def folder(name: bytes) -> tuple[Member, bytes]:
    return Member(name, DIRECTORY, mode=0o700), b""


def file(name: bytes, content: bytes = b"x") -> tuple[Member, bytes]:
    return Member(name, FILE, size=len(content)), content


ROOTS = (folder(b"home"), folder(b"tree"))


def read_all(data: bytes) -> list[Member]:
    return list(TarReader(io.BytesIO(data).read))


def unpacked(directory: Path, data: bytes) -> dict[str, object]:
    """What `unpack` says; empty: it did it."""
    for name in ("home", "tree"):
        (directory / name).mkdir()
    done = subprocess.run(
        [*PROGRAM, "unpack", directory / "home", directory / "tree"], input=data, capture_output=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    said: dict[str, object] = json.loads(done.stderr) if done.returncode else {}
    return said


# ---------------------------------------------------------------------------------------------------- format


@given(st.lists(MEMBERS, max_size=5))
def test_what_is_written_is_read(members: list[Member]):
    data = b"".join(tarstream.header(member) for member in members) + tarstream.END
    assert read_all(data) == members


@given(st.lists(MEMBERS, max_size=3))
def test_pythons_own_reader_agrees_about_names_and_kinds(members: list[Member]):
    members = [member for member in members if not member.name.endswith(b"/") and member.name.strip(b"/")]
    data = b"".join(tarstream.header(member) for member in members) + tarstream.END
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as found:
        seen = [(os.fsencode(each.name), each.type, each.mode) for each in found]
    assert seen == [(member.name, member.kind, member.mode) for member in members]


def test_a_file_larger_than_the_old_field_has_its_size():
    (header,) = [tarstream.header(Member(b"tree/large", FILE, size=1 << 40))]
    member = next(iter(TarReader(io.BytesIO(header).read)))
    assert member.size == 1 << 40


@settings(max_examples=300)
@given(data=st.data())
def test_a_changed_archive_is_damaged_or_readable_and_nothing_else(data: st.DataObject):
    whole = bytearray(tar(*ROOTS, file(b"tree/a", b"abc" * 300)))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(1, len(whole))) :]
    try:
        read_all(bytes(whole))
    except Damaged:
        return


@pytest.mark.parametrize(
    "records", [b"9 mtime=1", b"14 path=tree/a\n" + b"x" * 25, b"0 path=x\n", b" path=x\n", b"99 path=x\n"]
)
def test_records_that_make_no_sense_are_damage(records: bytes):
    """One without a length once was read as all those before it, for ever."""
    with pytest.raises(Damaged):
        tarstream._records(b"15 path=tree/a\n" + records)


def test_a_length_that_a_header_claims_is_not_believed():
    """It would be read into memory."""
    block = bytearray(tarstream.header(Member(b"tree", DIRECTORY))[:512])
    block[124:136] = b"%011o\0" % (1 << 32)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)

    def read(count: int) -> bytes:
        assert count < 1 << 20
        return bytes(block) if count == 512 else bytes(count)

    with pytest.raises(Damaged):
        list(TarReader(read))


@pytest.mark.parametrize(
    "text",
    [b"2\n0\n10\n5\n10\n", b"1\n95\n10\n", b"1\n0\n9\n", b"-1\n", b"1\nx\n1\n", b"9999999999\n"],
    ids=["overlap", "beyond", "too little", "negative", "no number", "endless"],
)
def test_a_map_of_a_sparse_file_that_does_not_fit_is_damage(text: bytes):
    data = text + tarstream.padding(len(text)) + bytes(10)
    member = Member(b"tree/a", FILE, size=len(data), sparse_bytes=100)
    reader = TarReader(io.BytesIO(tarstream.header(member) + data + bytes(1024)).read)
    next(iter(reader))
    with pytest.raises(Damaged):
        reader.segments(100)


# ------------------------------------------------------------------------------------------------- unpacking


def test_a_good_archive_is_unpacked(tmp_path: Path):
    assert unpacked(tmp_path, tar(*ROOTS, file(b"tree/a"), (Member(b"tree/b", HARD_LINK, target=b"tree/a"), b""))) == {}
    assert (tmp_path / "tree" / "b").stat().st_nlink == 2


@pytest.mark.parametrize(
    "entries",
    [
        [file(b"tree/../../out")],
        [file(b"/out")],
        [file(b"out")],
        [file(b"etc/out")],
        [file(b"tree/missing/out")],
        [file(b"tree/")],
        [folder(b"tree/..")],
        [folder(b"tree/a"), file(b"tree/a/../../../out")],
        [(Member(b"tree/link", SYMLINK, target=b"../.."), b""), file(b"tree/link/out")],
        [(Member(b"tree/hard", HARD_LINK, target=b"../secret"), b"")],
        [(Member(b"tree/hard", HARD_LINK, target=b"tree/../../secret"), b"")],
        [(Member(b"tree/hard", HARD_LINK, target=b"home/x"), b"")],
        [(Member(b"tree/hard", HARD_LINK), b"")],
        [folder(b"tree")],
        [(Member(b"home/x", SYMLINK, target=b"/"), b"")],
    ],
)
def test_nothing_leaves_home_and_tree(tmp_path: Path, entries: list[tuple[Member, bytes]]):
    (tmp_path / "secret").write_text("s")
    said = unpacked(tmp_path, tar(*ROOTS, *entries))
    assert said["refused"] == "damaged"
    assert sorted(os.listdir(tmp_path)) == ["home", "secret", "tree"]


@pytest.mark.parametrize(
    "entries",
    [[file(b"tree/a"), file(b"tree/a")], [(Member(b"tree/l", SYMLINK, target=b"../s"), b""), file(b"tree/l")]],
)
def test_nothing_that_is_there_is_written_to(tmp_path: Path, entries: list[tuple[Member, bytes]]):
    (tmp_path / "s").write_text("s")
    said = unpacked(tmp_path, tar(*ROOTS, *entries))
    assert (said["refused"], said["paths"]) == ("system", ["File exists"])
    assert (tmp_path / "s").read_text() == "s"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        tar(*ROOTS, file(b"tree/a"))[:-1024],
        tar(*ROOTS, file(b"tree/a"), sums=b""),
        tar(*ROOTS, file(b"tree/a"), sums=tarstream.sum_line("0" * 64, b"tree/a")),
        b"".join(tarstream.header(member) for member, _ in ROOTS) + tarstream.END,
    ],
    ids=["empty", "cut", "no sum", "another sum", "no end"],
)
def test_what_is_not_whole_is_damaged(tmp_path: Path, data: bytes):
    assert unpacked(tmp_path, data)["refused"] == "damaged"


def test_a_place_that_is_not_empty_is_refused(tmp_path: Path):
    assert unpacked(tmp_path, tar(*ROOTS)) == {}
    done = subprocess.run(
        [*PROGRAM, "unpack", tmp_path, tmp_path / "tree"], input=tar(*ROOTS), capture_output=True, check=False
    )
    assert json.loads(done.stderr)["refused"] == "not_empty"
