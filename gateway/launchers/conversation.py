"""Requests to one keeper and their answers: ids, deadlines, and answers that come when nobody waits any more."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.errors import DescriptorsExhausted, KeeperGone, KeeperRefused
from gateway.keeper import protocol
from gateway.launchers.answers import Answer, AnswerWrong
from gateway.launchers.descriptors import DescriptorWrong, close_all
from gateway.launchers.wire import MessageTooLong, Wire

CALLS_MAX = 2000  # unanswered at once; far above what one workspace's sessions can have
_CODE = re.compile(r"[a-z_]{1,40}")

T = TypeVar("T")


class KeeperDeclined(KeeperRefused):
    """The keeper answered with an error: `refusal` is its code, `message` its words."""

    def __init__(self, refusal: str, message: str, exit_status: int | None) -> None:
        super().__init__(f"the workspace's keeper refused: {message}", detail=refusal)
        self.refusal = refusal
        self.message = message
        self.exit_status = exit_status


@dataclass(slots=True)
class _Call:
    future: asyncio.Future[Any]
    take: Callable[[Answer], Any]
    undo: Callable[[Any], None]


class Conversation:
    """Owns the connection. `on_event` gets what is no answer; `on_end` is called once, with what was wrong or ""."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        answer_seconds: float,
        on_event: Callable[[protocol.Message], None],
        on_end: Callable[[str], None],
    ) -> None:
        self.answer_seconds = answer_seconds
        self.last_call_at = asyncio.get_running_loop().time()
        self._on_event = on_event
        self._on_end = on_end
        self._calls: dict[int, _Call] = {}
        self._next_id = 0
        self._has_ended = False
        self._wire = Wire(connection, on_message=self._take_message, on_end=self.end)

    async def call(
        self, verb: str, fields: protocol.Message, *, take: Callable[[Answer], T], undo: Callable[[T | None], None]
    ) -> T:
        """One request; `take` makes the result of the answer *as it arrives*, before any later message is read.

        If nobody waits by then (cancelled, or past the deadline), `undo` is called instead, with the result if there
        was one already. Raises KeeperGone, KeeperDeclined, MessageTooLong.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        call = _Call(future, take, undo)
        self._send(verb, fields, call)
        try:
            async with asyncio.timeout(self.answer_seconds):
                return await future
        except TimeoutError:
            _undo_if_answered(call)
            raise KeeperGone(
                "the workspace's keeper did not answer", detail=f"{verb}, {self.answer_seconds:g} s"
            ) from None
        except asyncio.CancelledError:
            _undo_if_answered(call)
            raise

    def tell(self, verb: str, fields: protocol.Message) -> None:
        """A request whose answer does not matter, nor that there is none."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        try:
            self._send(verb, fields, _Call(future, lambda answer: None, lambda result: None))
        except (KeeperGone, MessageTooLong):
            return

    def end(self, reason: str = "") -> None:
        """Close our side and tell everyone who waits. `reason`: what the keeper did wrong, if it did."""
        self._wire.close()
        if self._has_ended:
            return
        self._has_ended = True
        calls, self._calls = self._calls, {}
        self._on_end(reason)
        for call in calls.values():
            if not call.future.done():
                call.future.set_exception(KeeperGone("the workspace's keeper has ended", detail=reason))

    def _send(self, verb: str, fields: protocol.Message, call: _Call) -> None:
        if len(self._calls) >= CALLS_MAX:
            raise KeeperGone("the workspace's keeper does not answer", detail=f"{CALLS_MAX} requests are open")
        self._next_id += 1
        self.last_call_at = asyncio.get_running_loop().time()
        self._wire.send({"id": self._next_id, "verb": verb, **fields})
        self._calls[self._next_id] = call

    def _take_message(self, message: protocol.Message, fds: list[int] | None) -> None:
        request_id, error = message.get("id"), message.get("error")
        if request_id is None and "event" in message and not fds:
            self._on_event(message)
            return
        call = self._calls.pop(request_id, None) if isinstance(request_id, int) else None
        if call is None:
            self._give_up("an answer to no request", fds or [])
        elif fds is None:
            _starve(call)
        elif isinstance(error, dict) and not fds:
            if not call.future.done():
                call.future.set_exception(_declined(error))
        else:
            self._take_answer(call, message.get("ok"), fds)

    def _take_answer(self, call: _Call, values: object, fds: list[int]) -> None:
        if not isinstance(values, dict):
            self._fail(call, "neither an answer nor a refusal", fds)
        elif call.future.done():
            close_all(fds)
            call.undo(None)
        else:
            try:
                result = call.take(Answer(values, fds))
            except (AnswerWrong, DescriptorWrong, OSError) as wrong:
                if isinstance(wrong, OSError) and wrong.errno in (errno.EMFILE, errno.ENFILE):
                    close_all(fds)
                    _starve(call)
                else:
                    self._fail(call, str(wrong), fds)
            else:
                call.future.set_result(result)

    def _fail(self, call: _Call, reason: str, fds: list[int]) -> None:
        if not call.future.done():
            call.future.set_exception(KeeperGone("the workspace's keeper misbehaved", detail=reason))
        self._give_up(reason, fds)

    def _give_up(self, reason: str, fds: list[int]) -> None:
        """No second chance: a keeper that breaks its word once is not ours any more."""
        close_all(fds)
        self.end(reason)


def _starve(call: _Call) -> None:
    """The keeper kept its word, and we had no descriptor left to take it by: only this call fails, and is undone."""
    if not call.future.done():
        call.future.set_exception(DescriptorsExhausted("the gateway has no descriptor left; try again in a moment"))
    call.undo(None)


def _undo_if_answered(call: _Call) -> None:
    """The answer came, but the caller was cancelled before it could see it."""
    if not call.future.cancelled() and call.future.done() and call.future.exception() is None:
        call.undo(call.future.result())


def _declined(error: protocol.Message) -> KeeperDeclined:
    code, status = str(error.get("code")), error.get("exit_status")
    message = "".join(c if c.isprintable() else "?" for c in str(error.get("message"))[:300])
    return KeeperDeclined(
        code if _CODE.fullmatch(code) else "unknown",
        message,
        status if isinstance(status, int) and 0 < status < 256 else None,
    )
