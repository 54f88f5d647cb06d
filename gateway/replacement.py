"""This gateway's side of a reload: has another process take its place, and retires, or takes everything back.

Belongs to the wiring like app.py, of which it is a part; the order is in reload.py's picture.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gateway import notify
from gateway.errors import CommandRefused
from gateway.events import Event
from gateway.gateway_state import GatewayState
from gateway.log import log_event, log_failure, log_warning
from gateway.reload import READY_SECONDS, SERVING_SECONDS, Successor
from gateway.retirement import Retirement

if TYPE_CHECKING:
    from gateway.app import Gateway

JOBS_SECONDS = 10.0  # for a backup or maintenance under way; then it is cancelled, and caught up by the new one


class Replacement:
    """One at a time, and none once the gateway stops."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reload: asyncio.Task[int] | None = None

    @property
    def is_under_way(self) -> bool:
        return self._reload is not None and not self._reload.done()

    async def give_up(self) -> None:
        """The gateway stops: a new one that does not serve yet shall not."""
        if self._reload is None or self._reload.done():
            return
        is_retiring = self._gateway.state is GatewayState.RETIRED
        if not is_retiring:
            self._reload.cancel()
        await asyncio.wait({self._reload})
        if is_retiring:  # whoever asked meant the service, whose process we were until this moment
            self._gateway.processes.ask_others_to_stop()

    async def reload(self, say: Callable[[str], Awaitable[None]]) -> None:
        """For `homeport reload`: have this program executed anew, and replaced by that. Raises CommandRefused with the
        reason; then nothing has changed. Goes on if whoever asked leaves."""
        gateway = self._gateway
        if gateway.why_no_reload:
            raise CommandRefused(gateway.why_no_reload)
        if self.is_under_way or gateway.state is not GatewayState.SERVING:
            raise CommandRefused("the gateway is being replaced or stopped already")
        self._reload = asyncio.create_task(self._be_replaced(), name="reload")
        self._reload.add_done_callback(lambda done: done.cancelled() or done.exception())  # logged, and told who waits
        await say("starting the new gateway; this one serves meanwhile")
        pid = await asyncio.shield(self._reload)
        count = gateway.ssh.connection_count
        open_ones = "the connection that is open" if count == 1 else f"the {count} connections that are open"
        rest = f"; this one, {os.getpid()}, serves {open_ones} until the end" if count else ""
        await say(f"replaced by process {pid}{rest}")

    async def _be_replaced(self) -> int:
        gateway = self._gateway
        doors = gateway.doors.doors()
        try:
            successor = await Successor.start(doors, lock_fd=gateway.lock.fileno())
        finally:
            for door in doors:
                door.socket.close()
        has_shut = False
        try:
            ready = await successor.until("ready", READY_SECONDS)
            has_shut = True
            await self._step_aside()
            await successor.go()
            await successor.until("serving", SERVING_SECONDS)
        except BaseException as error:
            log_warning(Event.GATEWAY_WARNED, reason=f"reload failed: {error}")
            await successor.abandon()
            if has_shut:
                await self._step_back()
            raise
        log_event(Event.GATEWAY_REPLACED, pid=successor.pid, version=ready.get("version"),
                  connection_count=gateway.ssh.connection_count)  # fmt: skip
        await self._retire(successor)
        return successor.pid

    async def _step_aside(self) -> None:
        """Jobs first, while logins are served; then whoever comes waits in the kernel's queues, and terminals that
        nobody looks at are there to be adopted."""
        gateway = self._gateway
        await gateway.upkeep.stop(JOBS_SECONDS)
        gateway.elsewhere.pause()
        await gateway.doors.shut()
        await gateway.handover.release_detached()

    async def _step_back(self) -> None:
        """The new one came to nothing, and is gone."""
        gateway = self._gateway
        gateway.lock.sign()
        gateway.upkeep.start()
        try:
            await gateway.handover.adopt_all()
        except Exception:
            # What stopped the new one (a database that is locked) may stop us as well; nobody shall wait at a door that
            # stays shut. It is tried again from time to time.
            log_failure(Event.SESSION_FAILED, reason="adoption")
        gateway.elsewhere.begin()
        await gateway.doors.open_again()

    async def _retire(self, successor: Successor) -> None:
        gateway = self._gateway
        gateway.state = GatewayState.RETIRED
        gateway.elsewhere.is_retired = True
        gateway.lock.release()
        await gateway.doors.leave()
        await asyncio.to_thread(notify.replaced_by, successor.pid)
        successor.let_go()

        def look() -> None:
            successor.reap()
            gateway.agents.reclaim()
            gateway.broker.reclaim()

        retirement = Retirement(
            sessions=gateway.sessions,
            handover=gateway.handover,
            connections=gateway.ssh,
            store=gateway.store,
            commands_running=lambda: gateway.doors.control.caller_count,
            look=look,
            drain_seconds=gateway.config.session.reload_drain_seconds,
        )
        gateway.long_lived.append(gateway.spawn(self._retired(retirement), "retirement"))

    async def _retired(self, retirement: Retirement) -> None:
        gateway = self._gateway
        try:
            await retirement.run()
        finally:
            gateway.stop_asked.set()
