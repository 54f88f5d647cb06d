"""Sessions: their rows, from start to exit. A terminated one never comes back."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from tortoise.exceptions import IntegrityError
from tortoise.expressions import Q, Subquery
from tortoise.functions import Coalesce
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

import models
from gateway.errors import CommandRefused, NameTaken
from gateway.interfaces import (
    EndReason,
    ProgramExit,
    SessionActivity,
    SessionRequest,
    SessionRow,
    SessionStatus,
)
from gateway.store.database import Database
from gateway.store.text import COMMAND_CHARACTERS_MAX, clean_text

LIVE = (SessionStatus.ACTIVE, SessionStatus.PAUSED)
LIVE_SESSIONS_MAX = 100_000
PREFIX_CHARACTERS_MIN = 4
ID_CHARACTERS = 36
JOB_CHARACTERS_MAX = 100


class SessionQueries:
    _database: Database
    _ended: dict[str, datetime]  # since the last flush: session → when

    async def open_session(
        self,
        request: SessionRequest,
        *,
        workspace_id: str,
        shell: str,
        shell_pid: int,
        recording: str | None = None,
        name: str | None = None,
        working_directory: str | None = None,
    ) -> None:
        """The program has started: write the session's row, active and attached to the request's connection.

        Raises NameTaken: a session of this name runs in the workspace already.
        """
        size = request.terminal.size if request.terminal is not None else None
        now = datetime.now(UTC)
        row = models.Session(
            id=request.session_id,
            workspace_id=workspace_id,
            shell=shell,
            shell_pid=shell_pid,
            socket_id=request.connection_id,
            status=SessionStatus.ACTIVE,
            kind=request.kind,
            name=name,
            command=_command(request),
            principal=request.principal.name,
            key_fingerprint=request.principal.fingerprint,
            client_ip=request.client_address[0],
            columns=size.columns if size is not None else None,
            rows=size.rows if size is not None else None,
            environment=json.dumps(dict(request.environment)),
            working_directory=working_directory,
            recording=recording,
            created_at=now,
            last_activity_at=now,
        )
        try:
            await self._database.write("open_session", lambda: row.save(force_create=True))
        except IntegrityError as error:
            if name is None or "sessions.name" not in str(error):
                raise
            raise NameTaken(f"a session {name!r} runs in this workspace already") from error

    async def mark_paused(
        self, session_id: str, *, detached_at: datetime | None = None, job: str | None = None
    ) -> None:
        """The last client is gone, the program runs on; `job` is what it does, None: it is a shell at its prompt.

        Without `detached_at` (a stop, an adoption) what is known of the detaching and of its job stays; if nothing is,
        it is detached as of now.
        """
        values: dict[str, object] = {"status": SessionStatus.PAUSED, "socket_id": None}
        if detached_at is None:
            values["detached_at"] = Coalesce("detached_at", datetime.now(UTC))
        else:
            values |= {"detached_at": detached_at, "job": _job(job), "job_ended_at": None}
        await self._database.write("mark_paused", lambda: _live(session_id).update(**values))

    async def mark_active(self, session_id: str, connection_id: str) -> None:
        """A client on this connection has attached. The other columns go on telling who began the session."""
        values = {"detached_at": None, "job": None, "job_ended_at": None, "last_activity_at": datetime.now(UTC)}
        update = _live(session_id).update(status=SessionStatus.ACTIVE, socket_id=connection_id, **values)
        await self._database.write("mark_active", lambda: update)

    async def note_job(self, session_id: str, job: str | None, ended_at: datetime | None) -> None:
        """The foreground job of a detached session, found later than its detaching, or ended.

        Nothing changes if a client has attached meanwhile.
        """
        detached = models.Session.filter(id=session_id, status=SessionStatus.PAUSED)
        values = {"job": _job(job), "job_ended_at": ended_at}
        await self._database.write("note_job", lambda: detached.update(**values))

    async def end_session(
        self,
        session_id: str,
        *,
        exit: ProgramExit,
        reason: EndReason,
        bytes_in: int,
        bytes_out: int,
        ended_at: datetime | None = None,
    ) -> bool:
        """Write the end down, once: False, and nothing changed, if it has ended already. `ended_at` None: now.

        The workspace's `updated_at` follows with the next flush, so that an end costs one statement.
        """
        ended_at = ended_at or datetime.now(UTC)

        async def write() -> bool:
            changed = await _live(session_id).update(
                status=SessionStatus.TERMINATED,
                socket_id=None,
                shell_pid=None,
                ended_at=ended_at,
                end_reason=reason,
                exit_code=exit.exit_code,
                exit_signal=exit.signal,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
            )
            if changed:
                self._ended[session_id] = ended_at
            return bool(changed)

        return await self._database.write("end_session", write)

    async def sessions_left_open(self) -> list[SessionRow]:
        """All that have not ended, oldest first: after a start, those to be adopted or given up."""
        async with self._database.asked("sessions_left_open"):
            return await session_rows(models.Session.filter(status__in=LIVE).order_by("id"), LIVE_SESSIONS_MAX)

    async def list_sessions(
        self, *, include_ended: bool = False, limit: int = 200, workspaces: Collection[str] | None = None
    ) -> list[SessionRow]:
        """The most recently used first; of these workspaces (by name) alone, or of all."""
        chosen = models.Session.all() if include_ended else models.Session.filter(status__in=LIVE)
        if workspaces is not None:
            chosen = chosen.filter(workspace__slug__in=list(workspaces))
        async with self._database.asked("list_sessions"):
            return await session_rows(chosen.order_by("-last_activity_at"), limit)

    async def find_session(self, id_or_prefix: str) -> SessionRow | None:
        """By id, or by its beginning if only one has it. Raises CommandRefused if several do, or it is too short."""
        prefix = id_or_prefix.lower()
        if len(prefix) < PREFIX_CHARACTERS_MIN:
            raise CommandRefused(f"give at least {PREFIX_CHARACTERS_MIN} characters of the session's id")
        # A range rather than LIKE: only a range uses the primary key. Ids are made of 0-9, a-f and -, all below g.
        is_whole = len(prefix) >= ID_CHARACTERS
        matching = Q(id=prefix[:ID_CHARACTERS]) if is_whole else Q(id__gte=prefix, id__lt=prefix + "g")
        chosen = models.Session.filter(matching).order_by("id")
        async with self._database.asked("find_session"):
            rows = await session_rows(chosen, 2)
        if len(rows) > 1:
            raise CommandRefused(f"several sessions begin with {id_or_prefix!r}; give more of the id")
        return rows[0] if rows else None

    async def _flush_ended(self) -> None:
        """Let `updated_at` of workspaces tell how long they have been idle."""
        ended, self._ended = self._ended, {}
        if not ended:
            return
        theirs = models.Session.filter(id__in=list(ended)).values("workspace_id")
        touched = models.Workspace.filter(id__in=Subquery(theirs))
        await self._database.write("flush_ended", lambda: touched.update(updated_at=max(ended.values())))

    async def _write_activity(self, activity: Sequence[SessionActivity]) -> None:
        """All of a flush in one transaction, a thousand sessions in a few milliseconds."""
        if not activity:
            return
        values = [
            [str(one.last_activity_at.astimezone(UTC)), one.bytes_in, one.bytes_out, one.session_id] for one in activity
        ]

        async def write() -> None:
            # By hand: the ORM's bulk_update builds one CASE over all rows, which held the event loop for 300 ms with
            # a thousand sessions. The times are written as the ORM does, which is how Python prints them.
            async with in_transaction() as connection:
                await connection.execute_many(
                    "UPDATE sessions SET last_activity_at = ?, bytes_in = ?, bytes_out = ? "
                    "WHERE id = ? AND status <> 'terminated'",
                    values,
                )

        await self._database.write("flush_activity", write)


def _live(session_id: str) -> QuerySet[models.Session]:
    """This session, if it has not ended: no update may bring a terminated one back."""
    return models.Session.filter(id=session_id, status__in=LIVE)


def _job(name: str | None) -> str | None:
    """What the kernel calls a program is what the program calls itself (PR_SET_NAME): any bytes, or none."""
    return None if name is None else clean_text(name, JOB_CHARACTERS_MAX) or "?"


def _command(request: SessionRequest) -> str | None:
    if request.command is not None:
        return clean_text(request.command.decode(errors="backslashreplace"), COMMAND_CHARACTERS_MAX)
    return None if request.subsystem is None else clean_text(request.subsystem, COMMAND_CHARACTERS_MAX)


async def session_rows(chosen: QuerySet[models.Session], limit: int) -> list[SessionRow]:
    return [_session_row(row) for row in await chosen.limit(limit).select_related("workspace")]


def _session_row(row: models.Session) -> SessionRow:
    return SessionRow(
        id=row.id,
        workspace_id=row.workspace_id,
        workspace_name=row.workspace.slug if row.workspace is not None else None,
        kind=row.kind,
        status=row.status,
        name=row.name,
        command=row.command,
        shell=row.shell,
        shell_pid=row.shell_pid,
        connection_id=row.socket_id,
        principal=row.principal,
        key_fingerprint=row.key_fingerprint,
        client_ip=row.client_ip,
        columns=row.columns,
        rows=row.rows,
        recording=row.recording,
        bytes_in=row.bytes_in,
        bytes_out=row.bytes_out,
        created_at=row.created_at,
        last_activity_at=row.last_activity_at,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        exit_code=row.exit_code,
        exit_signal=row.exit_signal,
        detached_at=row.detached_at,
        job=row.job,
        job_ended_at=row.job_ended_at,
    )
