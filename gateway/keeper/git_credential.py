"""What git inside a workspace runs when it wants a name and a password (gitcredentials(7)): passes the question to the
gateway, and the answer back to git.

    git_credential.py DIRECTORY get|explain OPERATION    < git's lines

DIRECTORY has the gateway's socket. Why there is no answer is said in one line on standard error; git then goes on as
it would without us. A program of its own, started by git for each question: no import that is not needed, no state.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

SOCKET_NAME = "sock"
ASK_MAX_BYTES = 8 * 1024
ANSWER_MAX_BYTES = 64 * 1024
# The gateway may have to renew the token; it gives up a little earlier. Whatever hangs, git does not wait for ever.
SECONDS_MAX = 30


def main() -> int:
    directory, kind, operation = sys.argv[1:4]
    if operation not in ("get", "erase") or (kind, operation) == ("explain", "erase"):
        return 0  # `store`, and what later gits may know
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS_MAX)
    asked = sys.stdin.buffer.read(ASK_MAX_BYTES)
    kind = operation if operation == "erase" else kind
    try:
        verdict, _, answer = ask(directory, kind.encode() + b"\n" + asked).partition(b"\n")
    except OSError as error:
        return say(f"the gateway does not answer, so git gets no token ({error.strerror}); try again in a moment")
    if verdict == b"ok":
        sys.stdout.buffer.write(answer)
        return 0
    return say(answer.decode(errors="replace").strip() or "the gateway gave no answer, so git gets no token")


def ask(directory: str, question: bytes) -> bytes:
    os.chdir(directory)  # a path of any length, where the socket's address ends at 107 bytes
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as gateway:
        gateway.connect(SOCKET_NAME)
        gateway.sendall(question)
        gateway.shutdown(socket.SHUT_WR)
        answer = b""
        while len(answer) < ANSWER_MAX_BYTES and (piece := gateway.recv(ANSWER_MAX_BYTES)):
            answer += piece
        return answer


def say(sentence: str) -> int:
    plain = "".join(letter if letter.isprintable() else " " for letter in sentence)
    sys.stderr.write(f"homeport: {plain}\n")
    return 0  # git would repeat in its own words that a helper failed


def give_up(_number: int, _frame: object) -> None:
    os._exit(say("the gateway does not answer, so git gets no token; try again in a moment"))


if __name__ == "__main__":
    sys.exit(main())
