"""What sftp-server's log becomes in the journal: lines as OpenSSH writes them, and lines it would never write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import Event
from gateway.log import subscribe
from gateway.sessions import sftp_audit
from gateway.sessions.sftp_audit import SftpAudit

Rows = list[tuple[dict[str, object], bool]]


class Told:
    """An audit, and the rows it gave."""

    def __init__(self, *, has_messages: bool = True) -> None:
        self.rows: Rows = []
        self.audit = SftpAudit(self._take, session_id="s", has_messages=has_messages)

    def _take(self, details: Mapping[str, object], *, success: bool) -> None:
        self.rows.append((dict(details), success))

    def say(self, *messages: bytes) -> Told:
        for message in messages:
            self.audit.feed(message + b"\r\n")
        return self

    def end(self) -> Rows:
        self.audit.feed(b"")
        return self.rows


@pytest.fixture
def complaints() -> Iterator[list[dict[str, object]]]:
    seen: list[dict[str, object]] = []
    take_away = subscribe(lambda event, keys: seen.append(keys) if event is Event.SFTP_COMPLAINED else None)
    yield seen
    take_away()


def test_an_upload_is_one_row_with_its_bytes() -> None:
    told = Told().say(
        b"session opened for local user demo from [192.0.2.7]",
        b"received client version 3",
        b'realpath "."',
        b'stat name "/w/up.bin"',
        b"sent status No such file",
        b'open "/w/up.bin" flags WRITE,CREATE,TRUNCATE mode 0644',
        b'set "/w/up.bin" mode 0644',
        b'close "/w/up.bin" bytes read 0 written 3145745',
        b"session closed for local user demo from [192.0.2.7]",
    )
    expected = {"operation": "write", "path": "/w/up.bin", "flags": "WRITE,CREATE,TRUNCATE", "bytes_read": 0,
                "bytes_written": 3145745}  # fmt: skip
    assert told.rows == told.end() == [(expected, True)]


def test_a_download_is_a_read() -> None:
    told = Told().say(b'open "f" flags READ mode 0666', b'close "f" bytes read 7 written 0')
    assert told.end() == [
        ({"operation": "read", "path": "f", "flags": "READ", "bytes_read": 7, "bytes_written": 0}, True)
    ]


@pytest.mark.parametrize(
    ("message", "details"),
    [
        (b'remove name "a b"', {"operation": "remove", "path": "a b"}),
        (b'rmdir name "d"', {"operation": "rmdir", "path": "d"}),
        (b'mkdir name "d" mode 0777', {"operation": "mkdir", "path": "d"}),
        (b'rename old "a" new "b"', {"operation": "rename", "path": "a", "new_path": "b"}),
        (b'posix-rename old "a" new "b"', {"operation": "posix-rename", "path": "a", "new_path": "b"}),
        (b'symlink old "to" new "link"', {"operation": "symlink", "path": "to", "new_path": "link"}),
        (b'hardlink old "a" new "b"', {"operation": "hardlink", "path": "a", "new_path": "b"}),
    ],
)
def test_each_change_of_names_is_a_row_with_its_own_outcome(message: bytes, details: dict[str, object]) -> None:
    told = Told().say(message, message, b"sent status Permission denied", message)
    failed = {**details, "status": "Permission denied"}
    assert told.end() == [(details, True), (failed, False), (details, True)]


def test_a_failure_belongs_to_the_request_before_it_and_to_no_other() -> None:
    """`rm x` and then looking whether it is gone: the second status is the look's."""
    told = Told().say(b'remove name "x"', b'lstat name "x"', b"sent status No such file")
    assert told.end() == [({"operation": "remove", "path": "x"}, True)]


def test_opening_a_file_in_vain_is_a_row() -> None:
    told = Told().say(b'open "x" flags WRITE,CREATE mode 0600', b"sent status Permission denied")
    expected = {"operation": "write", "path": "x", "flags": "WRITE,CREATE", "status": "Permission denied"}
    assert told.end() == [(expected, False)]


@pytest.mark.parametrize(
    "message",
    [b'opendir "d"', b'closedir "d"', b'forced closedir "d"', b'set "f" mode 0600', b'stat name "f"', b'statvfs "/"',
     b'realpath "."', b'readlink "l"', b'expand "~/x"', b'fsync "f"', b'set "f" modtime 20261124-00:15:00',
     b'home-directory "/home/demo"', b"users-groups-by-id: 1 users, 1 groups", b'set "f" owner 1 group 1'],
)  # fmt: skip
def test_looking_and_listing_are_no_rows_nor_complaints(message: bytes, complaints: list[object]) -> None:
    assert Told().say(message, b"sent status Failure").end() == []
    assert complaints == []


def test_a_quiet_operation_is_settled_after_a_while_and_reported_once() -> None:
    """The last `rm` before a client that stays connected for hours."""
    told = Told().say(b'remove name "x"')
    told.audit.settle()
    assert told.rows == []
    told.audit.settle()
    told.audit.settle()
    assert told.rows == [({"operation": "remove", "path": "x"}, True)]
    assert len(told.end()) == 1


def test_settling_an_open_file_is_no_row_and_loses_nothing() -> None:
    told = Told().say(b'open "x" flags READ mode 0666')
    told.audit.settle()
    told.audit.settle()
    told.say(b'close "x" bytes read 1 written 0')
    assert [details["flags"] for details, _ in told.end()] == ["READ"]


def test_a_forced_close_and_a_server_that_was_killed_are_interruptions() -> None:
    told = Told().say(
        b'open "forced" flags WRITE mode 0666', b'open "killed" flags WRITE mode 0666',
        b'forced close "forced" bytes read 0 written 65536',
    )  # fmt: skip
    assert [(row["path"], row["status"], row.get("bytes_written"), done) for row, done in told.end()] == [
        ("forced", "interrupted", 65536, False),
        ("killed", "interrupted", None, False),
    ]


def test_a_full_disk_is_a_failure_of_the_file_that_met_it() -> None:
    long = b"n" * 300
    told = Told().say(
        b'open "' + long + b'" flags WRITE mode 0666',
        b'open "other" flags WRITE mode 0666',
        b'process_write: write "' + long[:100] + b'": No space left on device',
        b"sent status Failure",
        b'close "other" bytes read 0 written 1',
        b'close "' + long + b'" bytes read 0 written 4096',
    )
    assert [(len(str(row["path"])), row.get("status"), done) for row, done in told.end()] == [
        (5, None, True),
        (300, "No space left on device", False),
    ]


def test_one_file_open_twice_is_two_rows() -> None:
    told = Told().say(b'open "f" flags READ mode 0666', b'open "f" flags WRITE mode 0666')
    told.say(b'close "f" bytes read 1 written 0', b'close "f" bytes read 0 written 2')
    assert [row["flags"] for row, _ in told.end()] == ["READ", "WRITE"]


def test_names_come_back_from_their_escapes() -> None:
    told = Told().say(rb'remove name "caf\303\251 \\303 \351 \177"')
    assert [row["path"] for row, _ in told.end()] == ["café \\303 \\xe9 \x7f"]


def test_quotes_and_what_looks_like_a_suffix_stay_in_the_name() -> None:
    name = b'a" bytes read 5 written 6" flags READ mode 0644'
    told = Told().say(b'open "' + name + b'" flags WRITE mode 0644', b'close "' + name + b'" bytes read 0 written 9')
    told.say(b'remove name "' + name + b'"')
    assert [(row["path"], row.get("bytes_written")) for row, _ in told.end()] == [
        (name.decode(), 9),
        (name.decode(), None),
    ]


def test_two_names_that_cannot_be_told_apart_are_marked() -> None:
    told = Told().say(b'rename old "a" new "b" new "c"')
    assert [row.get("is_ambiguous") for row, _ in told.end()] == [True]


def test_names_full_of_what_looks_like_their_end_cost_no_time() -> None:
    """Each possible end was tried with all that follows: half a millisecond for the longest message sftp-server writes,
    and minutes for one of this length, which a program could write to a pipe that is not kept apart."""
    started = time.process_time()
    assert Told().say(b'rename old "' + b'" new "' * 30_000 + b"x").end()
    assert time.process_time() - started < 2


def test_a_name_with_line_ends_cannot_pass_for_a_message(complaints: list[object]) -> None:
    """log.c leaves line ends in names as they are; the pipe keeps its messages apart."""
    name = b'x"\r\nremove name "/etc/passwd"\r\nclose "y" bytes read 0 written 9'
    told = Told().say(b'remove name "' + name + b'"')
    assert [row["path"] for row, _ in told.end()] == [name.decode()]
    assert complaints == []


def test_bytes_as_they_come_are_messages_again() -> None:
    """A keeper of an earlier version has an ordinary pipe."""
    told = Told(has_messages=False)
    log = b'remove name "a"\r\nremove name "b\nc"\r\nsent status Failure\r\nremove name "d"'
    for at in range(0, len(log), 3):
        told.audit.feed(log[at : at + 3])
    assert [(row["path"], done) for row, done in told.end()] == [("a", True), ("b\nc", False), ("d", True)]


def as_log_c(message: bytes) -> bytes:
    """What log.c makes of a message that is too long."""
    return message[:1023][:1021]


def test_messages_that_were_cut_say_so_and_give_what_they_have() -> None:
    name = b"/" + b"n" * 2000
    told = Told().say(as_log_c(b'open "' + name + b'" flags WRITE mode 0644'))
    told.say(as_log_c(b'close "' + name + b'" bytes read 0 written 12'))
    told.say(as_log_c(b'remove name "' + name + b'"'), b"sent status Failure")
    told.say(as_log_c(b'rename old "' + name + b'" new "b"'), as_log_c(b'rename old "a" new "' + name + b'"'))
    told.say(as_log_c(b'mkdir name "' + name + b'" mode 0777'))
    rows = told.end()
    assert [(row["operation"], row["is_cut"], done) for row, done in rows] == [
        ("read", True, True), ("remove", True, False), ("rename", True, True), ("rename", True, True),
        ("mkdir", True, True),
    ]  # fmt: skip
    assert all(str(row["path"])[:900] == name[:900].decode() for row, _ in rows if row["path"] != "a")
    assert [row.get("new_path", "")[:3] if row.get("new_path") else None for row, _ in rows[2:4]] == [None, "/nn"]  # type: ignore[index]


def test_a_message_of_the_longest_length_whose_name_ends_in_time_has_its_figures() -> None:
    suffix = b'" bytes read 0 written 12'
    message = b'close "' + b"n" * (1021 - 7 - len(suffix)) + suffix
    ((row, _),) = Told().say(message).end()
    assert (len(message), row["bytes_written"], row["is_cut"]) == (1021, 12, True)


def test_rows_beyond_the_bound_are_counted_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp_audit, "ROWS_MAX", 3)
    told = Told().say(*[b'remove name "%d"' % number for number in range(10)])
    assert told.end()[3:] == [({"operation": "more", "count": 7}, True)]
    told.audit.feed(b"")
    told.say(b'remove name "late"')
    assert len(told.rows) == 4


def test_real_errors_go_to_the_operator_cut_and_counted(complaints: list[dict[str, object]]) -> None:
    told = Told().say(b"error while loading shared libraries: libcrypto.so.3\x1b[2J" + b"x" * 5000)
    told.say(*[b"Unknown message 77"] * 100, b"", b'close "', b"open", b"remove", b'rename old "')
    assert told.end() == []
    assert len(complaints) == sftp_audit.COMPLAINTS_MAX
    assert len(str(complaints[0]["reason"])) == sftp_audit.COMPLAINT_CHARACTERS_MAX


def test_nothing_it_is_told_makes_it_grow() -> None:
    told = Told(has_messages=False)
    told.audit.feed(b"x" * 1_000_000)
    told.say(*[b'open "%d" flags READ mode 0666' % number for number in range(5000)])
    told.say(*[b'process_read: read "%d": Input/output error' % number for number in range(500)])
    told.say(b'open "last" flags READ mode 0666', b'stat name "."')
    audit = told.audit
    assert len(audit._open) == sftp_audit.FILES_OPEN_MAX
    assert (len(audit._troubles), len(audit._unfinished)) == (sftp_audit.TROUBLES_MAX, 0)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([b"open ", b"close ", b'"', b"\r\n", b" new ", b"sent status ", b"remove name ", b"forced ",
                             b"rename old ", b" bytes read 1 written ", b"\\", b"\\777", b"n" * 1020,
                             b"process_read: read "]),
        ),
        max_size=30,
    ),
    st.booleans(),
)  # fmt: skip
def test_nothing_it_is_told_makes_it_fail(pieces: list[bytes], has_messages: bool) -> None:
    told = Told(has_messages=has_messages)
    for piece in pieces:
        if piece:
            told.audit.feed(piece)
        told.audit.settle()
    for row, _ in told.end():
        assert isinstance(row["path"], str)
        assert len(row["path"]) < 5000
