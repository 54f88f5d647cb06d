"""The keeper's loop: connections, readable terminals and ended children, one at a time, nothing that waits.

No exception may leave the loop: inside a sandbox the keeper is pid 1, and everything ends with it.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable

from . import process, protocol
from .client import Client, ClientGone
from .programs import Program, ProgramTable
from .verbs import VERBS, Refused, Reply

REAP_INTERVAL_SECONDS = 1.0  # orphans; our own programs are noticed at once by their pidfd
REAP_INTERVAL_WITHOUT_PIDFD_SECONDS = 0.02
REAP_MAX_AT_ONCE = 1000
CLIENTS_MAX = 64
REQUESTS_MAX_AT_ONCE = 64  # of one client, before others have their turn
TERMINATE_GRACE_SECONDS = 1.0  # between HUP and KILL: enough for an editor to save its swap file
TERMINATE_SECONDS = 5.0
FAILURE_PAUSE_SECONDS = 0.05


def serve(arguments: list[str]) -> None:
    """Run until idle or told to end. `arguments`: listening fd, lock fd, idle seconds, terminals at most."""
    listen_fd, lock_fd = int(arguments[0]), int(arguments[1])
    # The lock is held for as long as this process lives, and by nothing else: it is how others see that it does.
    process.settle((listen_fd, lock_fd))
    with socket.socket(fileno=listen_fd) as listener:
        keeper = Keeper(listener, idle_seconds=float(arguments[2]), terminals_max=int(arguments[3]))
        keeper.run()
    os._exit(0)  # nothing to clean up; as pid 1 the kernel ends everything inside


class Keeper:
    """Owns all programs of the workspace and all connections of gateways."""

    def __init__(self, listener: socket.socket, *, idle_seconds: float, terminals_max: int) -> None:
        listener.setblocking(False)
        self.programs = ProgramTable()
        self.clients: list[Client] = []
        self.terminals_max = terminals_max
        self.started_at = time.monotonic()
        self.is_ending = False
        self._listener = listener
        self._idle_seconds = idle_seconds
        self._last_request_at = self.started_at
        self._has_children = False
        self._next_reap_at = 0.0
        self._buffer = bytearray(protocol.MESSAGE_MAX_BYTES + 1)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)

    # ------------------------------------------------------------------------------------------------ the loop

    def run(self) -> None:
        while not self.is_ending:
            try:
                self.handle(self._selector.select(self._seconds_to_wait()))
                self.tick(time.monotonic())
            except Exception:
                time.sleep(FAILURE_PAUSE_SECONDS)  # whatever it was (no memory, no descriptors): not in a busy loop

    def handle(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        """One batch. An event may be stale: whatever ran before it in the batch may have closed or handed over
        what it is about, so every callback first asks whether it still concerns it."""
        for key, _ in events:
            callback: Callable[[], None] = key.data
            try:
                callback()
            except Exception:
                self._drop_broken(key)

    def tick(self, now: float) -> None:
        """What is due by time: orphans, kills after a hang-up, the end of an unused keeper."""
        if now >= self._next_reap_at:
            self.reap()
            without_pidfd = any(p.pidfd is None and p.exit is None for p in self.programs)
            self._next_reap_at = now + (REAP_INTERVAL_WITHOUT_PIDFD_SECONDS if without_pidfd else REAP_INTERVAL_SECONDS)
        for program in self.programs.kills_due(now):
            program.kill_at = None
            program.kill()
        if len(self.programs) or self._has_children:
            self._last_request_at = max(self._last_request_at, now)
        elif now >= self._last_request_at + self._idle_seconds:
            self.is_ending = True

    def _seconds_to_wait(self) -> float:
        now = time.monotonic()
        due = [self._last_request_at + self._idle_seconds]
        if len(self.programs) or self._has_children:
            due = [self._next_reap_at]
            kill_at = self.programs.next_kill_at()
            if kill_at is not None:
                due.append(kill_at)
        return max(0.0, min(due) - now)

    def _drop_broken(self, key: selectors.SelectorKey) -> None:
        """Something of ours failed on this descriptor: let go of it rather than meet it again for ever."""
        self._unwatch(key.fd)
        if key.fileobj is self._listener:  # out of descriptors, perhaps: try again with the next batch
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    # ------------------------------------------------------------------------------------------------- clients

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        if len(self.clients) >= CLIENTS_MAX:
            connection.close()
            return
        client = Client(connection)
        self.clients.append(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._serve_client(client))

    def _serve_client(self, client: Client) -> None:
        if client.is_closed:
            return
        try:
            client.flush()
            for _ in range(REQUESTS_MAX_AT_ONCE):
                if client.has_waiting or not self._serve_one(client):
                    break
        except Exception:  # ClientGone, most of the time
            self.drop_client(client)
        self._watch(client)

    def _serve_one(self, client: Client) -> bool:
        """Answer one message; False if there is none."""
        try:
            data = client.receive(self._buffer)
        except protocol.MessageMalformed as error:
            client.send({"id": None, "error": {"code": "malformed", "message": str(error)}})
            return True
        if data is None:
            return False
        self._last_request_at = time.monotonic()
        self._answer(client, data)
        return True

    def _answer(self, client: Client, data: bytes) -> None:
        request_id: object = None
        reply = Reply()
        try:
            request = protocol.decode(data)
            request_id = protocol.integer_in(request, "id", high=2**53)
            reply = self._perform(client, request)
            client.send({"id": request_id, "ok": reply.values}, reply.fds)
        except ClientGone:
            raise
        except Refused as refused:
            client.send({"id": request_id, "error": refused.describe()})
        except protocol.MessageMalformed as error:
            client.send({"id": request_id, "error": {"code": "malformed", "message": str(error)}})
        except Exception as error:  # also OSError: no descriptors left, too many in flight
            if reply.undo is not None:
                reply.undo()
            message = f"{type(error).__name__}: {error}"[:500]
            client.send({"id": request_id, "error": {"code": "failed", "message": message}})
        finally:
            reply.close()

    def _perform(self, client: Client, request: protocol.Message) -> Reply:
        verb = VERBS.get(str(request.get("verb")))
        if verb is None:
            raise Refused("unknown_verb", f"this keeper speaks version {protocol.VERSION}")
        if not client.has_greeted and request.get("verb") != "hello":
            raise Refused("no_hello", "say hello first")
        return verb(self, client, request)

    def drop_client(self, client: Client) -> None:
        """The end of a connection: its programs lose their owner, and we become the reader of its terminals."""
        if client.is_closed:
            return
        self._unwatch(client.connection)
        client.close()
        self.clients.remove(client)
        for program in self.programs:
            if program.owner is client:
                self.disown(program)

    def _watch(self, client: Client) -> None:
        """While answers wait to be sent no further requests are read: a client can only flood itself."""
        if not client.is_closed and client.has_waiting != client.is_watched_for_writing:
            client.is_watched_for_writing = client.has_waiting
            events = selectors.EVENT_WRITE if client.has_waiting else selectors.EVENT_READ
            self._selector.modify(client.connection, events, lambda: self._serve_client(client))

    def _unwatch(self, fileobj: socket.socket | int) -> None:
        try:
            self._selector.unregister(fileobj)
        except (KeyError, ValueError):
            return  # let go of already, after a failure

    # ------------------------------------------------------------------------------------------------ programs

    def add(self, session: str, pid: int, master: int | None, owner: Client) -> Program:
        program = self.programs.add(session, pid, master)
        program.owner = owner
        self._has_children = True
        try:
            program.pidfd = os.pidfd_open(pid)
            self._selector.register(program.pidfd, selectors.EVENT_READ, self.reap)
        except (OSError, AttributeError):  # Linux before 5.3: found by timed waiting instead
            self._next_reap_at = 0.0
        return program

    def disown(self, program: Program) -> None:
        """Nobody reads it from now on but us, until another connection adopts it: the others are told."""
        former, program.owner = program.owner, None
        if program.master is not None and not program.is_draining:
            program.is_draining = True
            self._selector.register(program.master, selectors.EVENT_READ, lambda: self._drain(program))
        self.tell_others(former, "unowned", program)

    def hand_over(self, program: Program, owner: Client) -> None:
        """Stop reading *first*: an event that already waits in this batch finds us no longer the reader."""
        self._stop_draining(program)
        program.owner = owner
        program.is_forgotten_at_exit = False

    def _drain(self, program: Program) -> None:
        if program.is_draining and not program.drain():
            # Unregistered but not marked: nothing will come, and a later reader must still be told so by EIO.
            self._stop_draining(program)

    def _stop_draining(self, program: Program) -> None:
        if program.is_draining:
            program.is_draining = False
            if program.master is not None:
                self._unwatch(program.master)

    def close_terminal(self, program: Program) -> None:
        self._stop_draining(program)
        if program.master is not None:
            os.close(program.master)
            program.master = None

    def forget(self, program: Program) -> None:
        self.close_terminal(program)
        self.programs.remove(program)

    def hang_up(self, program: Program, *, then_kill: bool = True) -> None:
        """As when a modem line drops: the terminal goes and the group is told. `then_kill`: what stays is killed later,
        else it goes on without a terminal."""
        self.close_terminal(program)
        program.signal_group(signal.SIGHUP)
        program.signal_group(signal.SIGCONT)  # a stopped program could not act on it
        if then_kill and program.exit is None and program.kill_at is None:
            program.kill_at = time.monotonic() + protocol.HANG_UP_GRACE_SECONDS

    # ------------------------------------------------------------------------------------------------ children

    def reap(self) -> None:
        """Collect ended children, ours and orphans alike; bounded, the rest with the next turn."""
        for _ in range(REAP_MAX_AT_ONCE):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._has_children = False
                return
            self._has_children = True
            if pid == 0:
                return
            program = self.programs.running_with_pid(pid)
            if program is not None:
                self._note_exit(program, status)

    def _note_exit(self, program: Program, status: int) -> None:
        if program.pidfd is not None:
            self._unwatch(program.pidfd)
            os.close(program.pidfd)
            program.pidfd = None
        for oldest in self.programs.note_exit(program, status):
            self.forget(oldest)
        if isinstance(program.owner, Client):
            self.tell(program.owner, {"event": "exit", "session": program.session, "exit": program.exit})
        if program.is_forgotten_at_exit:
            self.forget(program)

    def tell(self, client: Client, event: protocol.Message) -> None:
        """An event. A client that cannot be told is dropped, as one that has gone."""
        try:
            client.send(event)
        except (ClientGone, OSError):
            self.drop_client(client)
        self._watch(client)

    def tell_others(self, client: object, event: str, program: Program) -> None:
        """All that have said hello, but this one."""
        for other in list(self.clients):
            if other is not client and other.has_greeted:
                self.tell(other, {"event": event, "session": program.session})

    def end_everything(self) -> None:
        """Terminate: as pid 1 the kernel does it when we exit; otherwise all that descends from us is killed."""
        self.is_ending = True
        for program in self.programs:
            program.signal_group(signal.SIGHUP)
            program.signal_group(signal.SIGCONT)
        self._wait_for_children(TERMINATE_GRACE_SECONDS, kill=False)
        if os.getpid() != 1:
            self._wait_for_children(TERMINATE_SECONDS, kill=True)

    def _wait_for_children(self, seconds: float, *, kill: bool) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for pid in process.children_of({os.getpid()}) if kill else ():
                try:
                    os.kill(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    continue
            self.reap()
            if not self._has_children:
                return
            time.sleep(0.005)  # orphans of the killed come to us, as their subreaper, in the next round
