"""What each command says and does, over services that only remember."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from gateway.errors import CommandRefused
from gateway.interfaces import EndReason, SessionRow, SessionStatus
from gateway.lobby.recordings import TERMINAL_RESET
from gateway.lobby.services import StopBegun
from gateway.lobby.sessions import COMMANDS as SESSION_COMMANDS
from gateway.lobby.trees import COMMANDS as TREE_COMMANDS
from gateway.lobby.workspaces import COMMANDS as WORKSPACE_COMMANDS
from gateway.tree_status import Commit, Synced, TreeStatus
from tests.support.lobby import NOW, FakeLobby, FakeStore, Recording, session, workspace

ID_ONE = "01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77"
ID_TWO = "01932b7e-8f3d-7c4e-9d31-5a1f0c8e2b77"


@pytest.fixture
def lobby() -> FakeLobby:
    return FakeLobby(
        store=FakeStore(
            workspaces=[workspace("my-app"), workspace("old", is_active=False)],
            sessions=[session(ID_TWO, command="make\x1b]0;gotcha\x07", kind="exec"), session("0190" * 9, ended=True)],
        )
    )


# ------------------------------------------------------------------------------------------------- workspaces


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["notes"], ("notes", None)),
        (["https://github.com/o/r"], (None, "https://github.com/o/r")),
        (["git@github.com:o/r.git", "app"], ("app", "git@github.com:o/r.git")),
    ],
)
async def test_new_takes_a_name_or_a_url_with_a_name(lobby: FakeLobby, words: list[str], made: tuple[str, str]):
    assert await lobby("new", *words) == 0
    assert lobby.yard.made == [made]
    assert "is ready" in lobby.stdout.text
    assert lobby.stderr.text == "receiving objects\n"


async def test_new_passes_branch_description_and_later_on(lobby: FakeLobby):
    assert await lobby("new", "o/r", "--branch", "next", "--description", "what for", "--later") == 0
    assert lobby.yard.made == [(None, "o/r")]
    assert lobby.yard.wanted == [("next", "what for", True)]
    assert "declared, and cloned at its first login" in lobby.stdout.text


async def test_ls_tells_which_are_declared_and_when_each_was_used(lobby: FakeLobby):
    used = datetime.now(UTC) - timedelta(hours=3)
    lobby.store.workspaces = [
        replace(workspace("my-app"), last_activity_at=used), replace(workspace("later"), is_cloned=False),
    ]  # fmt: skip
    await lobby("ls")
    lines = lobby.stdout.text.splitlines()[1:]
    assert (lines[0].split()[0], "3 h ago" in lines[0]) == ("my-app", True)
    assert lines[1].split()[:2] == ["later", "declared"]


async def test_status_tells_branch_files_commit_and_use(lobby: FakeLobby):
    commit = Commit("c" * 40, datetime.now(UTC) - timedelta(days=2), "Ada", "fix\x1b[2J it")
    lobby.yard.tree = TreeStatus("main", "c" * 40, "origin/main", 1, 2, staged=1, untracked=3, last_commit=commit)
    assert await lobby("status", "my-app") == 0
    said = lobby.stdout.text
    assert "main, 1 ahead of origin/main and 2 behind" in said
    assert "1 staged, 3 untracked" in said
    assert "\x1b" not in said
    assert "(Ada, 2 days ago)" in said
    assert re.search(r"sessions +1\n", said)


async def test_a_refusal_with_a_name_in_it_that_others_gave_moves_no_cursor(
    lobby: FakeLobby, monkeypatch: pytest.MonkeyPatch
):
    async def sync(*_: object, **__: object) -> Synced:
        raise CommandRefused("fetched; the branch x\x9b2J\u202e has no upstream\nwrite: git push -u")

    monkeypatch.setattr(lobby.yard, "sync", sync)
    assert await lobby("sync", "my-app") == 1
    odd = "\N{REPLACEMENT CHARACTER}"
    assert lobby.stderr.text == f"homeport: fetched; the branch x{odd}2J{odd} has no upstream\nwrite: git push -u\n"


async def test_json_cannot_move_a_cursor_either_and_loses_nothing(lobby: FakeLobby):
    """A commit's subject is whoever made the repository's: 8-bit CSI, a mark that reorders, a lone surrogate."""
    subject = 'ä "\x1b[2J\x9b2J\u202e\x7f\U000e0001\udcff'
    lobby.yard.tree = TreeStatus("main", None, None, None, None, last_commit=Commit("abc", NOW, "ana", subject))
    await lobby("status", "my-app", "--json", is_terminal=True)
    assert lobby.stdout.text.replace("\n", "").isprintable()
    assert json.loads(lobby.stdout.text)["last_commit"]["subject"] == subject


async def test_status_json_has_the_documented_fields_also_before_the_clone(lobby: FakeLobby):
    documented = set(re.findall(r"\w+", TREE_COMMANDS[0].teaching.partition("--json:")[2]))
    lobby.yard.tree = replace(lobby.yard.tree, last_commit=Commit("c", NOW, "Ada", "fix"))
    await lobby("status", "my-app", "--json")
    cloned = json.loads(lobby.stdout.text)
    assert set(cloned) | set(cloned["last_commit"]) <= documented
    assert (cloned["branch"], cloned["ahead"], cloned["session_count"]) == ("main", 0, 1)
    lobby.store.workspaces = [replace(workspace("my-app"), is_cloned=False, clone_branch="next")]
    await lobby("status", "my-app", "--json")
    declared = json.loads(lobby.stdout.text)
    assert set(declared) == set(cloned)
    assert (declared["is_cloned"], declared["branch"], declared["modified"]) == (False, "next", None)


async def test_sync_says_how_far_it_went_and_for_whom(lobby: FakeLobby):
    assert await lobby("sync", "my-app") == 0
    assert "main is 2 commits further, at bbbbbbbbbbbb" in lobby.stdout.text
    assert lobby.yard.synced == [("my-app", "operator")]
    await lobby("sync", "my-app", "--json")
    documented = set(re.findall(r"\w+", TREE_COMMANDS[1].teaching.partition("--json:")[2]))
    assert set(json.loads(lobby.stdout.text)) <= documented


async def test_rename_is_refused_while_sessions_run(lobby: FakeLobby):
    assert await lobby("rename", "my-app", "better") == 1
    assert "homeport kill --workspace my-app" in lobby.stderr.text
    assert lobby.yard.renamed == []


async def test_rename_closes_what_is_open_with_keys_whose_scope_had_the_name(lobby: FakeLobby):
    """Their scope is as it was at the login, and the old name may be another workspace's a moment later."""
    lobby.store.sessions.clear()
    lobby.yard.renamed_keys, lobby.connection_count = ["SHA256:x"], 2
    assert await lobby("rename", "my-app", "better") == 0
    assert lobby.yard.renamed == [("my-app", "better")]
    assert "my-app is better now, also in the scope of 1 key; 2 open connections of them closed" in lobby.stdout.text


async def test_new_with_two_names_is_a_usage_error(lobby: FakeLobby):
    assert await lobby("new", "one", "two") == 2
    assert lobby.yard.made == []


async def test_new_keeps_stdout_for_json(lobby: FakeLobby):
    assert await lobby("new", "notes", "--json") == 0
    assert json.loads(lobby.stdout.text)["name"] == "notes"


async def test_ls_shows_active_workspaces_and_all_of_them_when_asked(lobby: FakeLobby):
    await lobby("ls")
    assert "my-app" in lobby.stdout.text
    assert "old" not in lobby.stdout.text
    await lobby("ls", "--all")
    assert "archived" in lobby.stdout.text


async def test_ls_json_has_the_documented_fields(lobby: FakeLobby):
    await lobby("ls", "--json")
    assert set(json.loads(lobby.stdout.text)[0]) == {
        "id", "name", "branch", "github_repo", "url", "is_active", "is_recorded", "forwarding", "shell",
        "active_session_count", "created_at", "description", "is_cloned", "last_sync_at", "last_activity_at",
        "archived_at",
    }  # fmt: skip
    documented = next(each for each in WORKSPACE_COMMANDS if each.name == "ls").teaching.partition("--json:")[2]
    assert set(json.loads(lobby.stdout.text)[0]) <= set(re.findall(r"\w+", documented))


async def test_an_empty_list_says_what_to_do_on_stderr_and_prints_an_empty_json_list():
    lobby = FakeLobby()
    assert await lobby("ls") == 0
    assert (lobby.stdout.text, "homeport new NAME" in lobby.stderr.text) == ("", True)
    await lobby("ls", "--json")
    assert json.loads(lobby.stdout.text) == []


@pytest.mark.parametrize(("name", "said"), [("my-ap", 'did you mean "my-app"?'), ("old", "is archived")])
async def test_a_workspace_that_is_not_there_is_refused_with_the_nearest(lobby: FakeLobby, name: str, said: str):
    assert await lobby("rm", name) == 1
    assert said in lobby.stderr.text


# --------------------------------------------------------------------------------------------------- sessions


async def test_sessions_show_running_ones_without_what_a_terminal_would_act_on(lobby: FakeLobby):
    await lobby("sessions")
    assert "01932b7e" in lobby.stdout.text
    assert "\x1b" not in lobby.stdout.text
    assert "exit 7" not in lobby.stdout.text


async def test_ended_sessions_show_how_they_ended(lobby: FakeLobby):
    await lobby("sessions", "--all")
    assert "exit 7" in lobby.stdout.text


async def table(lobby: FakeLobby, *rows: SessionRow) -> list[str]:
    """The lines of `sessions`, runs of blanks made one."""
    lobby.store.sessions = list(rows)
    await lobby("sessions")
    return [" ".join(line.split()) for line in lobby.stdout.text.splitlines()[1:]]


def paused(identifier: str, **changes: object) -> SessionRow:
    return session(identifier, status=SessionStatus.PAUSED, **changes)


async def test_sessions_tell_attached_from_detached_and_since_when(lobby: FakeLobby):
    now = datetime.now(UTC)
    lines = await table(
        lobby,
        session(ID_ONE),
        paused(ID_TWO, name="logs", detached_at=now - timedelta(hours=7, minutes=12)),
        paused("0190" * 9),  # of a version that did not write it down
    )
    assert "my-app shell attached - " in lines[0]
    assert "my-app+logs shell detached 7 h 12 min - " in lines[1]
    assert "my-app shell detached - " in lines[2]


async def test_sessions_tell_the_job_of_a_detached_one_and_when_it_ended(lobby: FakeLobby):
    now = datetime.now(UTC)
    ended_at = now - timedelta(hours=2, minutes=5)
    long_ago = now - timedelta(days=3)
    lines = await table(
        lobby,
        session(ID_ONE, job="make"),  # attached: its client sees what it does
        paused(ID_TWO, detached_at=now, job="make"),
        paused("0190" * 9, detached_at=now, job="ma\x1bke", job_ended_at=ended_at),
        paused("0191" * 9, detached_at=now, job="make", job_ended_at=long_ago),
    )
    assert "attached - " in lines[0]
    assert "detached 0 s make " in lines[1]
    assert f"ma�ke ended {ended_at:%H:%M} (2 h ago)" in lines[2]
    assert f"make ended {long_ago.day} {long_ago:%b %H:%M} (3 days ago)" in lines[3]


async def test_sessions_tell_which_will_be_ended_soon_and_why_one_was(lobby: FakeLobby):
    now = datetime.now(UTC)
    lobby.ends_at = {ID_ONE: now + timedelta(minutes=9, seconds=30), ID_TWO: now + timedelta(days=6)}
    lines = await table(
        lobby,
        paused(ID_ONE, detached_at=now - timedelta(days=6, hours=23)),
        paused(ID_TWO, detached_at=now - timedelta(days=1)),
    )
    assert "detached 6 days 23 h, ends in 9 min" in lines[0]
    assert "ends in" not in lines[1]  # far away
    lobby.store.sessions = [session(ID_ONE, ended=True, end_reason=EndReason.IDLE, exit_signal="HUP")]
    await lobby("sessions", "--all")
    assert " idle " in lobby.stdout.text


async def test_sessions_json_has_the_documented_fields(lobby: FakeLobby):
    lobby.store.sessions = [paused(ID_ONE, name="logs", detached_at=NOW, job="make", job_ended_at=NOW)]
    lobby.ends_at = {ID_ONE: NOW}
    await lobby("sessions", "--json")
    (shown,) = json.loads(lobby.stdout.text)
    documented = SESSION_COMMANDS[0].teaching.partition("--json:")[2]
    assert {name for name in shown if name not in re.findall(r"\w+", documented)} == set()
    assert (shown["status"], shown["name"], shown["job"]) == ("paused", "logs", "make")
    moment = "2030-01-02T03:04:05.000Z"
    assert [shown[name] for name in ("detached_at", "job_ended_at", "ends_at")] == [moment] * 3


async def test_kill_takes_the_beginning_of_an_id(lobby: FakeLobby):
    assert await lobby("kill", "01932b7e") == 0
    assert lobby.sessions.killed == [ID_TWO]


async def test_kill_refuses_a_beginning_that_names_several(lobby: FakeLobby):
    lobby.store.sessions.append(session(ID_ONE))
    assert await lobby("kill", "01932b7e") == 1
    assert lobby.sessions.killed == []
    assert "'01932b7e' fits 2 of them; name one: 01932b7e-8f3d, 01932b7e-8f3c" in lobby.stderr.text


async def test_kill_ends_none_of_several_when_one_is_unknown(lobby: FakeLobby):
    assert await lobby("kill", ID_TWO, "ffffffff") == 1
    assert lobby.sessions.killed == []


async def test_kill_takes_a_login_name_with_a_session(lobby: FakeLobby):
    lobby.store.sessions = [
        session(ID_ONE, name="agent"), session(ID_TWO, name="agent", workspace_name="other"),
        session("0190" * 9, name="agent", ended=True),
    ]  # fmt: skip
    assert await lobby("kill", "Other+agent") == 0
    assert lobby.sessions.killed == [ID_TWO]
    assert "in other+agent" in lobby.stdout.text


@pytest.mark.parametrize("wanted", ["my-app+logs", "my-app+", "+", "my-app+new", "my-app+\x1b[2J"])
async def test_kill_refuses_a_login_name_under_which_nothing_runs(lobby: FakeLobby, wanted: str):
    assert await lobby("kill", wanted) == 1
    assert lobby.sessions.killed == []
    assert "no running session" in lobby.stderr.text
    assert "\x1b" not in lobby.stderr.text


async def test_kill_of_a_workspace_name_says_how_to_name_its_sessions(lobby: FakeLobby):
    assert await lobby("kill", "My-App") == 2
    assert lobby.sessions.killed == []
    assert "is a workspace" in lobby.stderr.text
    assert "--workspace my-app" in lobby.stderr.text


async def test_a_workspace_that_is_named_like_an_id_does_not_hide_it(lobby: FakeLobby):
    lobby.store.sessions = [session(ID_ONE, workspace_name=ID_ONE[:8])]
    assert await lobby("kill", ID_ONE[:8]) == 0
    assert lobby.sessions.killed == [ID_ONE]


async def test_a_session_that_is_named_twice_is_killed_once(lobby: FakeLobby):
    lobby.store.sessions = [session(ID_ONE, name="agent")]
    assert await lobby("kill", "my-app+agent", ID_ONE) == 0
    assert lobby.sessions.killed == [ID_ONE]


async def test_kill_refuses_an_ended_session_and_one_too_short(lobby: FakeLobby):
    assert await lobby("kill", "0190") == 1
    assert await lobby("kill", "019") == 2


async def test_kill_of_a_workspace_ends_everything_in_it(lobby: FakeLobby):
    assert await lobby("kill", "--workspace", "my-app") == 0
    assert lobby.sessions.killed == ["id-my-app"]


# -------------------------------------------------------------------------------------------------- recordings


@pytest.fixture
def recorded() -> FakeLobby:
    lobby = FakeLobby()
    lobby.shelf.recordings = [Recording(ID_ONE), Recording(ID_TWO, is_live=True)]
    lobby.shelf.pieces = [b"\x1b[31mhello", b"\xff\r\n"]
    return lobby


async def test_rec_ls_shows_beginnings_that_are_accepted_elsewhere(recorded: FakeLobby):
    await recorded("rec", "ls")
    shown = [line.split()[0] for line in recorded.stdout.text.splitlines()[1:]]
    assert [await recorded("rec", "export", each) for each in shown] == [0, 0]


async def test_rec_ls_tells_what_was_recorded_as_far_as_it_is_known(recorded: FakeLobby):
    recorded.store.sessions = [session(ID_TWO, name="agent", command="make\x1b[2J", kind="exec", ended=True)]
    await recorded("rec", "ls")
    of_one, of_two = sorted(line.split()[1:3] for line in recorded.stdout.text.splitlines()[1:])
    assert of_one == ["my-app", "-"]
    assert of_two == ["my-app+agent", "make\N{REPLACEMENT CHARACTER}[2J"]
    assert "\x1b" not in recorded.stdout.text
    await recorded("rec", "ls", "--json")
    told = {each["session_id"]: (each["name"], each["command"]) for each in json.loads(recorded.stdout.text)}
    assert told == {ID_ONE: (None, None), ID_TWO: ("agent", "make\x1b[2J")}


async def test_rec_play_of_a_login_name_is_the_newest_recording_of_it(recorded: FakeLobby):
    recorded.store.sessions = [session(each, name="agent", ended=True) for each in (ID_TWO, ID_ONE)]
    assert await recorded("rec", "play", "My-App+agent") == 0
    assert recorded.shelf.played == [ID_ONE]  # the first of the list
    assert await recorded("rec", "play", "my-app+logs") == 1
    assert "no recording of 'my-app+logs'; see: homeport rec ls" in recorded.stderr.text


async def test_rec_play_passes_bytes_on_as_they_were_and_puts_a_terminal_right(recorded: FakeLobby):
    assert await recorded("rec", "play", ID_ONE, is_terminal=True) == 0
    assert recorded.stdout.data == b"\x1b[31mhello\xff\r\n" + TERMINAL_RESET
    await recorded("rec", "play", ID_ONE)
    assert recorded.stdout.data == b"\x1b[31mhello\xff\r\n"


@pytest.mark.parametrize("words", [["--speed", "0"], ["--speed", "nan"], ["--idle-limit", "-1"], ["--speed", "inf"]])
async def test_rec_play_refuses_a_pace_that_is_none(recorded: FakeLobby, words: list[str]):
    assert await recorded("rec", "play", ID_ONE, *words) == 2


@pytest.mark.parametrize(("words", "version"), [([], 3), (["--v2"], 2)])
async def test_rec_export_writes_every_line_of_the_asked_version(recorded: FakeLobby, words: list[str], version: int):
    assert await recorded("rec", "export", ID_ONE, *words) == 0
    lines = recorded.stdout.text.splitlines()
    assert (json.loads(lines[0])["version"], len(lines)) == (version, 10_001)


async def test_an_unknown_recording_is_refused(recorded: FakeLobby):
    assert await recorded("rec", "play", "ffffffff") == 1
    assert "homeport rec ls" in recorded.stderr.text


# -------------------------------------------------------------------------------------------------- operations


async def test_backup_now_says_where_it_is(lobby: FakeLobby):
    await lobby("backup", "now")
    assert lobby.stdout.text.startswith("backed up to /state/backups/homeport.db.gz (1.2 kB")
    await lobby("backup", "now", "--json")
    assert json.loads(lobby.stdout.text)["pruned_count"] == 2


async def test_stop_says_what_goes_on_and_how_to_end_it(lobby: FakeLobby):
    lobby.stop_begun = StopBegun(was_running=True, kept=[session(ID_ONE), session(ID_TWO)], ended_count=0)
    assert await lobby("stop") == 0
    assert "2 programs go on without the gateway, in my-app" in lobby.stdout.text
    assert "homeport stop --all" in lobby.stdout.text


async def test_stop_without_a_gateway_is_no_failure(lobby: FakeLobby):
    lobby.stop_begun = replace(lobby.stop_begun, was_running=False)
    assert await lobby("stop") == 0
    assert "no gateway is running" in lobby.stderr.text


# ------------------------------------------------------------------------------------------------------ journal


async def test_what_changes_something_is_written_down_with_who_did_it(lobby: FakeLobby):
    await lobby("new", "notes")
    await lobby("kill", ID_TWO)
    await lobby("kill", "--workspace", "my-app")
    lobby.store.sessions.clear()
    await lobby("rm", "my-app")
    assert [action for action, _ in lobby.store.journal] == [
        "workspace_created", "session_terminated", "session_terminated", "workspace_archived",
    ]  # fmt: skip
    assert all(details["by"] == "operator" for _, details in lobby.store.journal)


async def test_what_was_refused_is_not_written_down_as_done(lobby: FakeLobby):
    await lobby("rm", "my-app")
    await lobby("kill", "ffffffff")
    assert lobby.store.journal == []


async def test_recording_is_switched_per_workspace_and_the_journal_knows(lobby: FakeLobby):
    assert await lobby("rec", "off", "my-app") == 0
    assert not lobby.store.workspaces[0].is_recorded
    assert await lobby("rec", "on", "my-app") == 0
    assert lobby.store.workspaces[0].is_recorded
    assert [action for action, _ in lobby.store.journal] == ["recording_switched"] * 2
    assert await lobby("rec", "off", "my-ap") == 1
    assert "my-app" in lobby.stderr.text
