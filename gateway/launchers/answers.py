"""What a keeper's answers mean, once each value in them was checked. Everything here may come from an enemy."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass

from gateway.interfaces import KeptProgram, Program, ProgramExit
from gateway.keeper import protocol
from gateway.launchers.descriptors import DescriptorWrong, close_all, read_ring, take_pipe, take_terminal

PID_MAX = 2**22  # the largest value of kernel.pid_max
_SIGNAL_NAME = re.compile(r"[A-Z0-9+-]{1,16}")


class AnswerWrong(Exception):
    """The answer does not have the values it must have."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The values of a reply and the descriptors that came with it; whoever holds it owns them."""

    values: protocol.Message
    fds: list[int]


def program_of(session_id: str, answer: Answer, *, is_terminal: bool) -> Program:
    """The started or adopted program. Owns the answer's descriptors only on success."""
    exited: asyncio.Future[ProgramExit] = asyncio.get_running_loop().create_future()
    if answer.values.get("exit") is not None:
        exited.set_result(exit_of(answer.values["exit"]))
    program = Program(session_id, _number(answer.values, "pid", low=1, high=PID_MAX), exited)
    program.has_stderr_messages = answer.values.get("stderr_messages") is True
    program.backlog_lost_bytes = _number(answer.values, "lost_bytes", default=0, high=2**53)
    ring_bytes = _number(answer.values, "ring_bytes", default=0, high=protocol.RING_MAX_BYTES)
    rings, rest = (answer.fds[:1], answer.fds[1:]) if ring_bytes else ([], answer.fds)
    try:
        if is_terminal and len(rest) == 1:
            program.terminal_fd = take_terminal(rest[0])
        elif not is_terminal and len(rest) == protocol.DESCRIPTORS_MAX:
            program.stdin_fd = take_pipe(rest[0], access=os.O_WRONLY)
            program.stdout_fd = take_pipe(rest[1], access=os.O_RDONLY)
            program.stderr_fd = take_pipe(rest[2], access=os.O_RDONLY)
        elif not exited.done() or rest:  # what has ended may have no streams left
            raise AnswerWrong("not the descriptors such a program has")
        if rings:
            program.backlog = read_ring(rings[0], ring_bytes)
    except OSError as error:
        raise DescriptorWrong(str(error)) from None
    close_all(rings)
    return program


def exit_of(value: object) -> ProgramExit:
    """Exactly one of the two: an exit code, or a signal."""
    if isinstance(value, dict):
        code, name = value.get("code"), value.get("signal")
        if name is None and isinstance(code, int) and 0 <= code <= 255:
            return ProgramExit(exit_code=code)
        if code is None and isinstance(name, str) and _SIGNAL_NAME.fullmatch(name):
            return ProgramExit(signal=name, core_dumped=value.get("core") is True)
    raise AnswerWrong("an exit that is none")


def kept_programs(values: protocol.Message, *, after: int) -> tuple[list[KeptProgram], int, bool]:
    """One page of `list`: the programs, the last serial number, and whether there are more."""
    page = values.get("programs")
    if not isinstance(page, list) or len(page) > protocol.LIST_PAGE_MAX:
        raise AnswerWrong("a list that is none")
    found = []
    for line in page:
        if not isinstance(line, dict):
            raise AnswerWrong("a list of something else")
        after = _number(line, "serial", low=after + 1, high=2**53)  # rising, so that it ends
        session = line.get("session")
        if not isinstance(session, str) or not 0 < len(session) <= protocol.SESSION_ID_MAX_CHARS:
            raise AnswerWrong("a session id that is none")
        end = None if line.get("exit") is None else exit_of(line["exit"])
        pid = _number(line, "pid", low=1, high=PID_MAX)
        found.append(KeptProgram(session, pid, line.get("terminal") is True, line.get("owned") is True, end))
    return found, after, bool(found) and values.get("more") is True


def _number(values: protocol.Message, name: str, *, low: int = 0, high: int, default: int | None = None) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise AnswerWrong(f"{name} out of range")
    return value
