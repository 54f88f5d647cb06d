"""Sessions that another gateway has: one that was replaced and serves on, until the last of its clients has gone.

Two gateways share each keeper then. A program belongs to one of them; the keeper passes wishes on and tells when one is
nobody's. The gateway that serves adopts what is released, and asks for what somebody wants who came to it; the one that
was replaced answers, and gives a session up to whoever asks for it by name, or whose client has fallen silent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol

from gateway.errors import KeeperGone, KeeperRefused, LauncherUnavailable, LoginRefused
from gateway.events import Event
from gateway.interfaces import Keeper, Keepers, SessionKind, SessionRow, Wanted, Workspace
from gateway.log import log_event
from gateway.sessions.attaching import PROBE_SECONDS
from gateway.sessions.handover import Handover
from gateway.sessions.live import Live
from gateway.sessions.sessions import Sessions, Spawn, tell_keeper

# A little more than the other one takes to find out that a client does not answer.
FETCH_SECONDS = PROBE_SECONDS + 0.5
FETCHED_MAX = 32  # sessions asked for at once: a person has a few windows
# Keepers tell at once what is released; those of an earlier version do not, nor those we have no line to yet.
WATCH_SECONDS = 3.0

_GIVEN_UP = "this session goes on in a newer gateway; connect again to be back in it"


class RowsLeftOpen(Protocol):
    async def sessions_left_open(self) -> list[SessionRow]: ...


class Elsewhere:
    """Implements KeeperListener. `others`: the other gateways of this state that live, by pid."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        handover: Handover,
        rows: RowsLeftOpen,
        keepers: Keepers,
        others: Callable[[], Collection[int]],
        spawn: Spawn,
    ) -> None:
        self.is_retired = False  # we are the one that was replaced
        self._sessions = sessions
        self._handover = handover
        self._rows = rows
        self._keepers = keepers
        self._others = others
        self._spawn = spawn
        self._is_adopting = self._had_others = False
        self._looking: set[str] = set()  # workspaces whose keeper is about to be looked at
        self._fetched: dict[str, asyncio.Future[bool]] = {}

    def begin(self) -> None:
        """What was there has been adopted: from now on follow what the others do."""
        self._is_adopting = self._had_others = True  # a first look, in case not all was adopted
        self._keepers.listen_to(self)
        self._sessions.adopt_unowned = self._adopt_unowned
        self._sessions.fetch = self._fetch

    def pause(self) -> None:
        """Adopt nothing: what we release now is for another."""
        self._is_adopting = False

    async def look(self) -> None:
        """From time to time, as long as there are others: what no keeper told us of. And once more when the last of
        them has gone. Likewise as long as a keeper is silent, of which something is to be adopted."""
        has_others = bool(self._others())
        unreached = self._handover.unreached
        if not self._is_adopting or self.is_retired or not (self._had_others or has_others or unreached):
            return
        keepers = await self._keepers.find()
        if unreached - self._keepers.silent():
            await self._handover.adopt_all()
        else:
            await self._handover.adopt_unowned(keepers)
        self._had_others = has_others  # only now: what failed is tried again

    async def end(self, session_id: str) -> bool:
        """Have a session ended that another gateway has. False: none has it. Raises KeeperRefused if it cannot be
        asked."""
        for keeper in self._keepers.running():
            with contextlib.suppress(KeeperGone):
                if any(kept.session_id == session_id and kept.is_owned for kept in await keeper.list()):
                    return await keeper.want(session_id, Wanted.END)
        return False

    # --------------------------------------------------------------------------- before a client gets a session

    async def _adopt_unowned(self, workspace: Workspace) -> None:
        if self._is_adopting and (self._others() or workspace.id in self._handover.unreached):
            keeper = await self._keeper_of(workspace)
            await self._handover.adopt_unowned([keeper] if keeper is not None else [])

    async def _keeper_of(self, workspace: Workspace) -> Keeper | None:
        """None: there is none, and none could be started, which whoever begins a program there will be told."""
        try:
            return await self._keepers.keeper_for(workspace)
        except LauncherUnavailable:
            # Perhaps it is behind another wall than the settings ask for by now: what runs there can be had.
            found = (keeper for keeper in self._keepers.running() if keeper.workspace_id == workspace.id)
            return next(found, None)

    async def _fetch(self, workspace: Workspace, name: str | None, owner: str) -> bool:
        """Ask for the sessions that a client may mean. True: one has come. Raises LoginRefused where beginning another
        one of that name would be wrong."""
        if not self._others():
            return False
        rows = [
            row
            for row in await self._rows.sessions_left_open()
            if row.workspace_id == workspace.id
            and row.columns is not None
            and row.name == name
            and (name is not None or (row.kind is SessionKind.SHELL and row.key_fingerprint == owner))
            and self._sessions.get(row.id) is None
        ]
        if self.is_retired or not rows:
            if rows and name is not None:
                raise LoginRefused(f"{name} is with a newer gateway, for which a new connection is needed: ssh -O exit")
            return False
        how = Wanted.RELEASE_IF_SILENT if name is None else Wanted.RELEASE
        try:
            keeper = await self._keeper_of(workspace)
            has_come = keeper is not None and await self._ask_for(keeper, rows[-FETCHED_MAX:], how)
        except KeeperRefused as error:
            if name is None:
                return False  # a keeper of an earlier version: a new shell, then
            raise LoginRefused(error.user_message) from None
        if name is not None and not has_come:
            raise LoginRefused(f"{name} is still in use by a gateway that was replaced; try again in a moment")
        return has_come

    async def _ask_for(self, keeper: Keeper, rows: Collection[SessionRow], how: Wanted) -> bool:
        loop = asyncio.get_running_loop()
        waiting = {row.id: self._fetched.setdefault(row.id, loop.create_future()) for row in rows}
        try:
            for session_id, answer in waiting.items():
                if not await keeper.want(session_id, how) and not answer.done():
                    answer.set_result(self._sessions.get(session_id) is not None)
            async with asyncio.timeout(FETCH_SECONDS):
                for next_answer in asyncio.as_completed([asyncio.shield(answer) for answer in waiting.values()]):
                    if await next_answer:
                        return True
        except (TimeoutError, KeeperGone):
            pass
        finally:
            for session_id in waiting:
                self._fetched.pop(session_id, None)
        return any(self._sessions.get(session_id) is not None for session_id in waiting)

    # ---------------------------------------------------------------- what keepers tell us (KeeperListener)

    def unowned(self, keeper: Keeper, session_id: str) -> None:
        if self._is_adopting and keeper.workspace_id not in self._looking:
            self._looking.add(keeper.workspace_id)
            self._spawn(self._look(keeper), f"adopt:{keeper.workspace_id}")

    async def _look(self, keeper: Keeper) -> None:
        self._looking.discard(keeper.workspace_id)  # what is released from here on is a reason to look again
        await self._handover.adopt_unowned([keeper])
        for session_id, answer in self._fetched.items():
            if self._sessions.get(session_id) is not None and not answer.done():
                answer.set_result(True)

    def kept(self, keeper: Keeper, session_id: str) -> None:
        answer = self._fetched.get(session_id)
        if answer is not None and not answer.done():
            answer.set_result(False)

    def wanted(self, keeper: Keeper, session_id: str, how: Wanted) -> None:
        live = self._sessions.get(session_id)
        if live is None or live.keeper is not keeper:
            return  # on its way to them already
        if not self.is_retired:
            keeper.keep(session_id)
        else:
            self._spawn(self._answer(live, how), f"wanted:{session_id}")

    async def _answer(self, live: Live, how: Wanted) -> None:
        log_event(Event.SESSION_WANTED, session_id=live.session_id, workspace=live.workspace.name, reason=how)
        if how is Wanted.END:
            await tell_keeper(_done(self._sessions.kill(live.session_id)))
        elif not live.is_kept or live.terminal is None or (how is Wanted.RELEASE_IF_SILENT and await _answers(live)):
            live.keeper.keep(live.session_id)
        else:
            await self._handover.release(live, _GIVEN_UP)


async def _answers(live: Live) -> bool:
    """Whether one of its clients is there."""
    viewers = live.terminal.viewers if live.terminal is not None else ()
    return any(await asyncio.gather(*(viewer.channel.is_answering(PROBE_SECONDS) for viewer in viewers)))


async def _done(kill: Coroutine[Any, Any, bool]) -> None:
    await kill
