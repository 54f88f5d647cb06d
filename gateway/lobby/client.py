"""The caller's end of the control socket. Blocking, standard library only: `homeport ls` should feel instant.

Descriptors are written directly: nothing is buffered that a broken pipe could spoil at exit.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from gateway.errors import CommandRefused
from gateway.lobby.asking import echo, read_line
from gateway.lobby.command import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_UNREACHABLE
from gateway.lobby.text import question_text
from gateway.lobby.wire import (
    DATA_FRAME_BYTES,
    HEADER,
    FrameInvalid,
    Kind,
    Question,
    Request,
    decode_status,
    encode_answer,
    frame,
    parse_header,
)

CONNECT_SECONDS = 5
TIDY_SECONDS = 10  # after Ctrl-C: how long the gateway may take to undo what was half made


def connect(path: Path) -> socket.socket | None:
    """A connection to the running gateway, or None: no gateway runs there. Raises CommandRefused."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except PermissionError:
        connection.close()
        raise CommandRefused(
            "this account may not speak to the gateway; use the account that runs it, or sudo"
        ) from None
    except OSError as error:
        connection.close()
        raise CommandRefused(f"the gateway does not answer ({error.strerror or 'it is too busy'})") from None
    connection.settimeout(None)
    return connection


def run_remote(
    connection: socket.socket, request: Request, *, stdin: bytes, stdout_fd: int = 1, stderr_fd: int = 2
) -> int:
    """Have the gateway run the command; returns its exit status. Closes the connection."""
    with connection:
        try:
            _send(connection, request, stdin)
            return _relay(connection, stdout_fd, stderr_fd, answers=True)
        except KeyboardInterrupt:
            return _cancel(connection, stdout_fd, stderr_fd)
        except BrokenPipeError:
            return EXIT_BROKEN_PIPE
        except (EOFError, ConnectionError, FrameInvalid) as error:
            reason = error.user_message if isinstance(error, FrameInvalid) else "it stopped, or refused this account"
            write_all(stderr_fd, f"homeport: the gateway went away before it had answered: {reason}\n".encode())
            return EXIT_UNREACHABLE


def _send(connection: socket.socket, request: Request, stdin: bytes) -> None:
    try:
        connection.sendall(frame(Kind.REQUEST, request.encode()))
        for start in range(0, len(stdin), DATA_FRAME_BYTES):
            connection.sendall(frame(Kind.STDIN, stdin[start : start + DATA_FRAME_BYTES]))
        connection.sendall(frame(Kind.STDIN_END))
    except BrokenPipeError:
        return  # the gateway has its answer already, and it can still be read: say, that there are too many callers


def _relay(connection: socket.socket, stdout_fd: int, stderr_fd: int, *, answers: bool) -> int:
    """Pass output on until the status comes. BrokenPipeError means our own reader: the socket is only read here."""
    while True:
        kind, length = parse_header(_receive(connection, HEADER.size))
        data = _receive(connection, length)
        if kind is Kind.STDOUT:
            write_all(stdout_fd, data)
        elif kind is Kind.STDERR:
            write_all(stderr_fd, data)
        elif kind is Kind.STATUS:
            return decode_status(data)
        elif kind is Kind.ASK:
            if answers:
                _answer(connection, Question.decode(data), stderr_fd)
        else:
            raise FrameInvalid(f"the gateway sent a frame of kind {kind.name}")


def _answer(connection: socket.socket, question: Question, stderr_fd: int) -> None:
    with echo(0, is_on=not question.is_secret):
        write_all(stderr_fd, question_text(question.text).encode())
        line = read_line(0)
    if question.is_secret or line is None:
        write_all(stderr_fd, b"\n")
    with contextlib.suppress(BrokenPipeError):  # it went away meanwhile, which the next read says
        connection.sendall(frame(Kind.ANSWER, encode_answer(line)))


def _cancel(connection: socket.socket, stdout_fd: int, stderr_fd: int) -> int:
    """Say so by closing our sending side, then hear the end of it: when the prompt returns, nothing is half made."""
    with contextlib.suppress(EOFError, OSError, FrameInvalid, KeyboardInterrupt):  # all of them mean: it is over
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(TIDY_SECONDS)
        _relay(connection, stdout_fd, stderr_fd, answers=False)
    return EXIT_INTERRUPTED


def _receive(connection: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        piece = connection.recv(length - len(received))
        if not piece:
            raise EOFError("the gateway closed the connection")
        received += piece
    return bytes(received)


def write_all(fd: int, data: bytes) -> None:
    """Write everything to a descriptor that may take it piece by piece."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
