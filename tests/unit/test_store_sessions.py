"""Sessions' rows, from start to exit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.errors import CommandRefused, NameTaken
from gateway.interfaces import (
    EndReason,
    ProgramExit,
    SessionActivity,
    SessionKind,
    SessionRow,
    SessionStatus,
    Workspace,
)
from gateway.store.store import Store
from tests.support.store import PRINCIPAL, open_session, opened_store, session_request

LONG_AGO = datetime(2020, 2, 29, 22, 15, tzinfo=UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


@pytest.fixture
async def workspace(store: Store) -> Workspace:
    return await store.add_workspace("demo")


async def row_of(store: Store, session_id: str) -> SessionRow:
    row = await store.find_session(session_id)
    assert row is not None
    return row


async def end(store: Store, session_id: str, exit: ProgramExit, reason: EndReason = EndReason.EXIT) -> bool:
    return await store.end_session(session_id, exit=exit, reason=reason, bytes_in=10, bytes_out=20)


async def test_an_opened_session_has_its_whole_row(store: Store, workspace: Workspace) -> None:
    request = session_request()
    await store.open_session(request, workspace_id=workspace.id, shell="zsh", shell_pid=7, recording="r", name="logs")
    row = await row_of(store, request.session_id)
    assert (row.workspace_id, row.workspace_name) == (workspace.id, "demo")
    assert (row.status, row.kind, row.name, row.command) == (SessionStatus.ACTIVE, SessionKind.SHELL, "logs", None)
    assert (row.shell, row.shell_pid, row.connection_id) == ("zsh", 7, request.connection_id)
    assert (row.principal, row.key_fingerprint) == (PRINCIPAL.name, PRINCIPAL.fingerprint)
    assert (row.client_ip, row.columns, row.rows, row.recording) == ("192.0.2.7", 80, 24, "r")
    assert (row.bytes_in, row.bytes_out) == (0, 0)
    assert (row.ended_at, row.end_reason, row.exit_code, row.exit_signal) == (None, None, None, None)
    assert datetime.now(UTC) - row.created_at < timedelta(minutes=1)


async def test_a_command_is_kept_readable_whatever_bytes_it_has(store: Store, workspace: Workspace) -> None:
    odd = session_request(kind=SessionKind.EXEC, command=b"printf '\xff\x1b[31m'\n" + b"x" * 10_000)
    sftp = session_request(kind=SessionKind.SUBSYSTEM, subsystem="sftp")
    for request in (odd, sftp):
        await store.open_session(request, workspace_id=workspace.id, shell="bash", shell_pid=2)
    command = (await row_of(store, odd.session_id)).command
    assert command is not None
    assert command.startswith("printf '\\xff\\x1b[31m'\\nxxx")
    assert len(command) == 4000
    assert (await row_of(store, sftp.session_id)).command == "sftp"


async def test_a_session_detaches_and_is_attached_again(store: Store, workspace: Workspace) -> None:
    session_id = await open_session(store, workspace)
    await store.mark_paused(session_id, detached_at=LONG_AGO, job="make")
    row = await row_of(store, session_id)
    assert (row.status, row.connection_id, row.shell_pid) == (SessionStatus.PAUSED, None, 2)
    assert (row.detached_at, row.job, row.job_ended_at) == (LONG_AGO, "make", None)
    await store.mark_active(session_id, "connection-2")
    row = await row_of(store, session_id)
    assert (row.status, row.connection_id) == (SessionStatus.ACTIVE, "connection-2")
    assert (row.detached_at, row.job, row.job_ended_at) == (None, None, None)
    assert (row.principal, row.client_ip) == (PRINCIPAL.name, "192.0.2.7")  # who began it


async def test_what_is_known_of_a_detached_session_outlives_stops_and_adoptions(
    store: Store, workspace: Workspace
) -> None:
    session_id = await open_session(store, workspace)
    await store.mark_paused(session_id, detached_at=LONG_AGO, job="make")
    await store.note_job(session_id, "make", LONG_AGO + timedelta(hours=1))
    await store.mark_paused(session_id)
    row = await row_of(store, session_id)
    assert (row.detached_at, row.job, row.job_ended_at) == (LONG_AGO, "make", LONG_AGO + timedelta(hours=1))


async def test_a_session_whose_gateway_crashed_is_detached_as_of_the_adoption(
    store: Store, workspace: Workspace
) -> None:
    session_id = await open_session(store, workspace)
    before = datetime.now(UTC)
    await store.mark_paused(session_id)
    detached_at = (await row_of(store, session_id)).detached_at
    assert detached_at is not None
    assert before <= detached_at <= datetime.now(UTC)


async def test_detaching_again_begins_a_new_story(store: Store, workspace: Workspace) -> None:
    session_id = await open_session(store, workspace)
    await store.mark_paused(session_id, detached_at=LONG_AGO, job="make")
    await store.note_job(session_id, "make", LONG_AGO)
    await store.mark_active(session_id, "connection-2")
    await store.mark_paused(session_id, detached_at=LONG_AGO + timedelta(days=1))
    row = await row_of(store, session_id)
    assert (row.detached_at, row.job, row.job_ended_at) == (LONG_AGO + timedelta(days=1), None, None)


async def test_a_job_that_ends_as_a_client_attaches_is_not_noted(store: Store, workspace: Workspace) -> None:
    """The client sees it; a note would tell of it again at the next detaching."""
    session_id = await open_session(store, workspace)
    await store.note_job(session_id, "make", LONG_AGO)
    row = await row_of(store, session_id)
    assert (row.job, row.job_ended_at) == (None, None)


@pytest.mark.parametrize(
    ("name", "kept"), [("vim\n\x1b[31m", "vim\\n\\x1b[31m"), ("", "?"), ("x" * 500, "x" * 99 + "…")]
)
async def test_a_job_is_kept_readable_whatever_it_calls_itself(
    store: Store, workspace: Workspace, name: str, kept: str
) -> None:
    session_id = await open_session(store, workspace)
    await store.mark_paused(session_id, detached_at=LONG_AGO, job=name)
    assert (await row_of(store, session_id)).job == kept


async def test_a_name_belongs_to_one_live_session_of_a_workspace(store: Store, workspace: Workspace) -> None:
    async def begin(workspace: Workspace, name: str | None) -> str:
        request = session_request()
        await store.open_session(request, workspace_id=workspace.id, shell="bash", shell_pid=2, name=name)
        return request.session_id

    first = await begin(workspace, "logs")
    await store.mark_paused(first)
    with pytest.raises(NameTaken, match="a session 'logs' runs in this workspace already"):
        await begin(workspace, "logs")
    await begin(workspace, None)
    await begin(workspace, None)
    await begin(await store.add_workspace("other"), "logs")
    await end(store, first, ProgramExit(0))
    await begin(workspace, "logs")


@pytest.mark.parametrize(
    ("exit", "reason"),
    [
        (ProgramExit(0), EndReason.EXIT),
        (ProgramExit(37), EndReason.EXIT),
        (ProgramExit(signal="TERM"), EndReason.KILLED),
        (ProgramExit(), EndReason.LOST),
        (ProgramExit(signal="HUP"), EndReason.IDLE),
    ],
)
async def test_the_end_is_kept_as_it_was(
    store: Store, workspace: Workspace, exit: ProgramExit, reason: EndReason
) -> None:
    """Code or signal, or neither; never a made-up 0."""
    session_id = await open_session(store, workspace)
    assert await end(store, session_id, exit, reason)
    row = await row_of(store, session_id)
    assert (row.status, row.exit_code, row.exit_signal) == (SessionStatus.TERMINATED, exit.exit_code, exit.signal)
    assert (row.end_reason, row.bytes_in, row.bytes_out) == (reason, 10, 20)
    assert (row.shell_pid, row.connection_id) == (None, None)
    assert row.ended_at is not None


async def test_a_terminated_session_never_comes_back(store: Store, workspace: Workspace) -> None:
    """Neither a late detach nor a late flush nor a second end changes it."""
    session_id = await open_session(store, workspace)
    await end(store, session_id, ProgramExit(3))
    before = await row_of(store, session_id)
    await store.mark_paused(session_id)
    await store.mark_active(session_id, "late")
    await store.flush_activity([SessionActivity(session_id, datetime.now(UTC), 999, 999)])
    assert not await end(store, session_id, ProgramExit(0), EndReason.LOST)
    assert await row_of(store, session_id) == before


async def test_the_end_of_a_session_is_the_last_use_of_its_workspace(store: Store, workspace: Workspace) -> None:
    """So that idleness is true."""
    session_id = await open_session(store, workspace)
    ended_at = datetime.now(UTC) + timedelta(hours=1)
    await store.end_session(
        session_id, exit=ProgramExit(0), reason=EndReason.EXIT, bytes_in=0, bytes_out=0, ended_at=ended_at
    )
    await store.flush_activity([])
    (found,) = await store._database.query("SELECT updated_at FROM workspaces")
    assert datetime.fromisoformat(found["updated_at"]) == ended_at


async def test_activity_is_written_in_one_batch(store: Store, workspace: Workspace) -> None:
    ids = [await open_session(store, workspace) for _ in range(20)]
    later = datetime.now(UTC) + timedelta(minutes=5)
    await store.flush_activity([SessionActivity(id, later, number, number * 2) for number, id in enumerate(ids)])
    rows = {row.id: row for row in await store.list_sessions()}
    assert [(rows[id].bytes_in, rows[id].bytes_out) for id in ids] == [(number, number * 2) for number in range(20)]
    assert {row.last_activity_at for row in rows.values()} == {later}


async def test_sessions_left_open_are_those_that_have_not_ended(store: Store, workspace: Workspace) -> None:
    ended, paused, active = [await open_session(store, workspace) for _ in range(3)]
    await end(store, ended, ProgramExit(0))
    await store.mark_paused(paused)
    assert [row.id for row in await store.sessions_left_open()] == [paused, active]


async def test_sessions_are_listed_by_last_use_and_ended_ones_on_demand(store: Store, workspace: Workspace) -> None:
    ids = [await open_session(store, workspace) for _ in range(4)]
    await end(store, ids[1], ProgramExit(0))
    assert [row.id for row in await store.list_sessions()] == [ids[3], ids[2], ids[0]]
    await store.flush_activity([SessionActivity(ids[0], datetime.now(UTC) + timedelta(minutes=1), 0, 0)])
    by_use = [ids[0], ids[3], ids[2], ids[1]]
    assert [row.id for row in await store.list_sessions(include_ended=True)] == by_use
    assert [row.id for row in await store.list_sessions(include_ended=True, limit=2)] == by_use[:2]


async def test_a_session_is_found_by_the_beginning_of_its_id(store: Store, workspace: Workspace) -> None:
    session_id = await open_session(store, workspace)
    assert (await row_of(store, session_id[:12].upper())).id == session_id
    assert (await row_of(store, session_id)).id == session_id
    assert await store.find_session("ffffffff") is None
    await open_session(store, workspace)
    with pytest.raises(CommandRefused, match="several sessions begin with"):
        await store.find_session(session_id[:6])  # the first digits are the time
    assert await store.find_session("0" * 500) is None
    with pytest.raises(CommandRefused, match="at least 4 characters"):
        await store.find_session("01")
