"""What sftp-server says it did, made into journal rows: one for each file closed, removed, renamed, linked or made.

Started with `-e -l VERBOSE`, OpenSSH's sftp-server (sftp-server.c, log.c; the same from 8.0 to 10.5) writes a message
for each request to its standard error, and if the request failed, `sent status No such file` as the next one. Success
is silent: it shows by the next message being another one, or by there being none for a while (`settle`). A file that
was opened gets its row when it is closed. Listing, looking and changing attributes get none.

What the log cannot tell, and so the journal cannot:

- Names stand between quotes as they are, quotes and line ends included. That no name can pass for a message of its own
  rests on the pipe keeping messages apart (keeper/spawn.py). With a keeper or kernel that does not, messages are told
  by their CR LF, and a name that holds one can make up rows. Of two names in one message the first is taken to end at
  the first `" new "`; if there is another, the row says `is_ambiguous`.
- A message is cut at 1021 bytes; its row says `is_cut`, and has no figures where those were cut off.
- A request for a handle that is not open is answered by a status alone, which then seems to belong to the operation
  before it. A client can make a removal look failed that way, never hide it.
- Failures of single reads and writes name 100 bytes of the path; files that begin alike may have theirs exchanged.

Only SFTP goes through here. scp's old protocol (`scp -O`), rsync, git and shells are programs of the workspace.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.events import Event
from gateway.interfaces import Program, SessionKind, SessionRequest, Workspace
from gateway.journal import JournalAction
from gateway.log import log_event

# A session that copies a large tree; what comes after it is counted.
ROWS_MAX = 10_000
# sftp-server may have 1024 descriptors. More can seem open only where closing them was not understood.
FILES_OPEN_MAX = 1024
TROUBLES_MAX = 64
# Messages that are no log of files: real errors, which the operator should see, but not a flood of them.
COMPLAINTS_MAX = 20
COMPLAINT_CHARACTERS_MAX = 200
# log.c formats 1023 bytes, escapes them into 1023 (an escape of four that does not fit is left out), prints 1021.
CUT_FROM_BYTES = 1020
# Both `open "NAME` and `forced close "NAME` hold this much of a name, so that a cut one is still found again.
NAME_KEY_BYTES = 900
TROUBLE_NAME_BYTES = 100  # %.100s in process_read and process_write
UNFINISHED_MAX_BYTES = 4096

_STATUS_INTERRUPTED = "interrupted"

_OPEN = re.compile(rb'open "(.*)" flags ([A-Z,]*) mode 0[0-7]+', re.DOTALL)
_OPEN_CUT = re.compile(rb'open "(.*)', re.DOTALL)
_CLOSE = re.compile(rb'(?:forced )?close "(.*)" bytes read ([0-9]{1,20}) written ([0-9]{1,20})', re.DOTALL)
_CLOSE_CUT = re.compile(rb'(?:forced )?close "(.*)', re.DOTALL)
_MKDIR = re.compile(rb'mkdir name "(.*)" mode 0[0-7]+', re.DOTALL)
_NAMED = re.compile(rb'[a-z]+ name "(.*)"', re.DOTALL)
_NAMED_CUT = re.compile(rb'[a-z]+ name "(.*)', re.DOTALL)
# Atomic: the first `" new "` is the one, and looking for another costs a name full of them half a millisecond.
_PAIR = re.compile(rb'[a-z-]+ old "(?>(.*?)" new ")(.*)"', re.DOTALL)
_PAIR_CUT = re.compile(rb'[a-z-]+ old "(.*?)(?:" new "(.*))?', re.DOTALL)
_TROUBLE = re.compile(rb'process_(?:read|write): [a-z]+ "(.*)": ([^"]*)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(\\|[0-3][0-7]{2})")

# The first word of what sftp-server says about requests that change no file, or change only its attributes.
_QUIET = frozenset(
    (b"session", b"received", b"opendir", b"closedir", b"set", b"stat", b"lstat", b"realpath", b"readlink", b"fsync",
     b"expand", b"statvfs", b"home-directory", b"users-groups-by-id:", b"Refusing")
)  # fmt: skip
# The beginnings of errors a client can cause as often as it likes.
_CLIENTS_OWN = (b"process_", b"Unknown ", b"bad message ", b"msg_len ")


class Note(Protocol):
    """Puts a row into the journal (gateway/store); neither waits nor fails."""

    def __call__(
        self, action: JournalAction, *, success: bool, client_ip: str | None, details: Mapping[str, object]
    ) -> None: ...


class TakeRow(Protocol):
    """Takes the details of one row; must neither wait nor fail."""

    def __call__(self, details: Mapping[str, object], *, success: bool) -> None: ...


def is_auditable(request: SessionRequest) -> bool:
    """Whether its program is an sftp-server with a standard error of its own; on a terminal the log would be output."""
    return request.kind is SessionKind.SUBSYSTEM and request.terminal is None


def audit_of(request: SessionRequest, workspace: Workspace, program: Program, *, note: Note) -> SftpAudit:
    """An audit whose rows go into the journal, with who and where."""
    who = {"session_id": request.session_id, "connection_id": request.connection_id,
           "workspace": workspace.name, "principal": request.principal.name}  # fmt: skip

    def take_row(details: Mapping[str, object], *, success: bool) -> None:
        note(JournalAction.FILE, success=success, client_ip=request.client_address[0], details={**details, **who})

    return SftpAudit(take_row, session_id=request.session_id, has_messages=program.has_stderr_messages)


@dataclass(slots=True)
class _Pending:
    """An operation whose failure would be the next message."""

    details: dict[str, object]
    opened: bytes | None = None  # `open`: under which key to remember the file if nothing failed
    is_old: bool = False


class SftpAudit:
    """Follows the log of one sftp-server. Whatever is fed, it never fails and holds no more than a few MiB."""

    def __init__(self, take_row: TakeRow, *, session_id: str, has_messages: bool) -> None:
        """`has_messages`: what is fed is one message each time, not bytes as they come."""
        self._take_row = take_row
        self._session_id = session_id
        self._has_messages = has_messages
        self._unfinished = b""
        self._pending: _Pending | None = None
        self._open: dict[bytes, list[dict[str, object]]] = {}  # the same file may be open several times
        self._open_count = 0
        self._troubles: dict[bytes, str] = {}  # the beginning of a name → what went wrong with its bytes
        self._row_count = 0
        self._complaint_count = 0
        self._has_ended = False

    def feed(self, data: bytes) -> None:
        """What sftp-server wrote; nothing, once it can write no more."""
        if self._has_ended:
            return
        if not data:
            self._end()
        elif self._has_messages:
            self._take(data.removesuffix(b"\r\n"))
        else:
            *messages, rest = (self._unfinished + data).split(b"\r\n")
            self._unfinished = rest[:UNFINISHED_MAX_BYTES]
            for message in messages:
                self._take(message)

    def settle(self) -> None:
        """Called now and then: an operation that did not fail since the last call is taken for done."""
        if self._pending is not None and self._pending.is_old:
            self._succeed()
        elif self._pending is not None:
            self._pending.is_old = True

    # ------------------------------------------------------------------------------------------- what it said

    def _take(self, message: bytes) -> None:
        word = message.split(b" ", 1)[0]
        if word == b"sent" and message.startswith(b"sent status "):
            self._fail(message.removeprefix(b"sent status "))
            return
        self._succeed()
        if word in _QUIET or message.startswith(b"forced closedir "):
            return
        trouble = _TROUBLE.fullmatch(message)
        if trouble is not None:
            self._note_trouble(trouble[1], trouble[2])
            return
        read = _READERS.get(word)
        if read is None or not read(self, word.decode("ascii"), message):
            self._complain(message)

    def _take_open(self, word: str, message: bytes) -> bool:
        found = _OPEN.fullmatch(message) or _cut(_OPEN_CUT, message)
        if found is None:
            return False
        flags = found[2].decode("ascii") if found.re is _OPEN else None
        operation = "write" if flags is not None and "WRITE" in flags else "read"
        details = {"operation": operation, "path": _text(found[1]), "flags": flags, **_marks(message)}
        self._pending = _Pending(details, opened=found[1][:NAME_KEY_BYTES])
        return True

    def _take_close(self, word: str, message: bytes) -> bool:
        found = _CLOSE.fullmatch(message) or _cut(_CLOSE_CUT, message)
        if found is None:
            return False
        details = {"operation": "read"} | self._forget_open(found[1]) | {"path": _text(found[1])} | _marks(message)
        if found.re is _CLOSE:
            details |= {"bytes_read": int(found[2]), "bytes_written": int(found[3])}
            if details["bytes_written"]:  # its flags may be unknown, cut off
                details["operation"] = "write"
        trouble = self._troubles.pop(_unescaped(found[1])[:TROUBLE_NAME_BYTES], None)
        self._row(details, status=_STATUS_INTERRUPTED if word == "forced" else trouble)
        return True

    def _take_named(self, word: str, message: bytes) -> bool:
        found = (_MKDIR if word == "mkdir" else _NAMED).fullmatch(message) or _cut(_NAMED_CUT, message)
        if found is not None:
            self._pending = _Pending({"operation": word, "path": _text(found[1]), **_marks(message)})
        return found is not None

    def _take_pair(self, word: str, message: bytes) -> bool:
        found = _PAIR.fullmatch(message) or _cut(_PAIR_CUT, message)
        if found is None:
            return False
        # What a link points to is only text; the file that comes to be, or the new name, is `new_path` in all four.
        new_path = None if found[2] is None else _text(found[2])
        details = {"operation": word, "path": _text(found[1]), "new_path": new_path, **_marks(message)}
        if message.count(b'" new "') > 1:
            details["is_ambiguous"] = True
        self._pending = _Pending(details)
        return True

    def _note_trouble(self, name: bytes, reason: bytes) -> None:
        key = _unescaped(name)[:TROUBLE_NAME_BYTES]
        if key in self._troubles or len(self._troubles) < TROUBLES_MAX:
            self._troubles[key] = _text(reason[:COMPLAINT_CHARACTERS_MAX])

    def _complain(self, message: bytes) -> None:
        """Not the log of a file: said to the operator, never to the client, who would take it for the server's."""
        self._complaint_count += 1
        if self._complaint_count <= COMPLAINTS_MAX and message.strip():
            level = logging.DEBUG if message.startswith(_CLIENTS_OWN) else logging.WARNING
            reason = _text(message[:COMPLAINT_CHARACTERS_MAX])
            log_event(Event.SFTP_COMPLAINED, level=level, session_id=self._session_id, reason=reason)

    # ---------------------------------------------------------------------------------------- what came of it

    def _succeed(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if pending.opened is None:
            self._row(pending.details)
        elif self._open_count < FILES_OPEN_MAX:
            self._open.setdefault(pending.opened, []).append(pending.details)
            self._open_count += 1

    def _fail(self, status: bytes) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:  # else it is that of a request which gets no row
            self._row(pending.details, status=_text(status[:COMPLAINT_CHARACTERS_MAX]))

    def _forget_open(self, name: bytes) -> dict[str, object]:
        key = name[:NAME_KEY_BYTES]
        opened = self._open.get(key)
        if not opened:
            return {}
        self._open_count -= 1
        if len(opened) == 1:
            del self._open[key]
        return opened.pop(0)

    def _end(self) -> None:
        """Its last message was read. What it did not close, it was ended in the middle of."""
        if self._unfinished:
            self._take(self._unfinished)
        self._has_ended = True
        self._unfinished = b""
        self._succeed()
        for opened in self._open.values():
            for details in opened:
                self._row(details, status=_STATUS_INTERRUPTED)
        self._open.clear()
        if self._row_count > ROWS_MAX:
            self._take_row({"operation": "more", "count": self._row_count - ROWS_MAX}, success=True)

    def _row(self, details: dict[str, object], *, status: str | None = None) -> None:
        self._row_count += 1
        if self._row_count <= ROWS_MAX:
            self._take_row(details if status is None else {**details, "status": status}, success=status is None)


_READERS = {
    b"open": SftpAudit._take_open,
    b"close": SftpAudit._take_close,
    b"forced": SftpAudit._take_close,
    b"remove": SftpAudit._take_named,
    b"rmdir": SftpAudit._take_named,
    b"mkdir": SftpAudit._take_named,
    b"rename": SftpAudit._take_pair,
    b"posix-rename": SftpAudit._take_pair,
    b"symlink": SftpAudit._take_pair,
    b"hardlink": SftpAudit._take_pair,
}


def _cut(pattern: re.Pattern[bytes], message: bytes) -> re.Match[bytes] | None:
    """What can be read of a message that was cut; nothing of one that is simply wrong."""
    return pattern.fullmatch(message) if len(message) >= CUT_FROM_BYTES else None


def _marks(message: bytes) -> dict[str, object]:
    return {"is_cut": True} if len(message) >= CUT_FROM_BYTES else {}


def _unescaped(name: bytes) -> bytes:
    """The bytes of a name: log.c writes backslashes twice and what is not printable ASCII in octal (vis(3))."""
    if b"\\" not in name:
        return name
    return _ESCAPE.sub(lambda found: b"\\" if found[1] == b"\\" else bytes([int(found[1], 8)]), name)


def _text(name: bytes) -> str:
    """A name for the journal; bytes that are no UTF-8 as `\\xe9`."""
    return _unescaped(name).decode("utf-8", "backslashreplace")
