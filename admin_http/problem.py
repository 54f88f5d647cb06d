"""How the API says no: one shape for every status, with a code for programs and a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiohttp import hdrs, web
from pydantic import ValidationError

from admin_http.answer import Answer, json_answer, timestamp
from gateway.errors import (
    CommandRefused,
    GatewayError,
    NameRefused,
    NameTaken,
    StoreUnavailable,
    UsageWrong,
    WorkspaceMissing,
)

Detail = Mapping[str, object]

# What a client sent is in some of these, and nobody needs all of it back.
DETAILS_MAX = 20
TEXT_CHARACTERS_MAX = 300
PATH_PARTS_MAX = 8
RETRY_SECONDS = 5  # of what usually passes: a full disk that is being looked at, a busy database


class Problem(Exception):
    """Raised anywhere under the API; the gate (api_gate.py) makes an answer of it."""

    def __init__(
        self,
        status: int,
        code: str,
        sentence: str,
        *,
        details: Sequence[Detail] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.sentence = sentence
        self.details = details
        self.headers = headers

    def answer(self, **more: object) -> Answer:
        body = {
            "error": self.sentence[:TEXT_CHARACTERS_MAX],
            "code": self.code,
            "details": list(self.details),
            "timestamp": timestamp(),
            **more,
        }
        return json_answer(body, status=self.status, headers=self.headers)


def validation_failed(details: Sequence[Detail]) -> Problem:
    return Problem(400, "validation_failed", "Validation failed", details=details[:DETAILS_MAX])


def of_validation(error: ValidationError) -> Problem:
    """Where it is wrong and why, without repeating what was sent."""
    return validation_failed(
        [
            detail([str(part) for part in one["loc"]], one["type"], one["msg"])
            for one in error.errors(include_url=False, include_context=False, include_input=False)[:DETAILS_MAX]
        ]
    )


def of_refusal(error: GatewayError) -> Problem:
    """An expected failure of the gateway. Its words are made to be shown."""
    match error:
        case NameRefused() | UsageWrong():
            return validation_failed([detail([], error.code, error.user_message)])
        case NameTaken() | CommandRefused():
            return Problem(409, error.code, error.user_message)
        case WorkspaceMissing():
            return Problem(404, error.code, error.user_message)
        case StoreUnavailable():  # its words are for the operator
            sentence = "the gateway's database does not answer; try again in a moment"
        case _:
            sentence = error.user_message
    return Problem(503, error.code, sentence, headers={hdrs.RETRY_AFTER: str(RETRY_SECONDS)})


def of_library(error: web.HTTPException) -> Problem:
    """What aiohttp itself refuses with."""
    allow = error.headers.get(hdrs.ALLOW, "")
    code, sentence = {
        404: ("not_found", "there is no such page; /api/v1/openapi.json has them all"),
        405: ("method_not_allowed", f"here only these are answered: {allow}"),
        413: ("body_too_large", "the body is larger than anything that is asked for here"),
    }.get(error.status, ("bad_request", error.reason))
    return Problem(error.status, code, sentence, headers={hdrs.ALLOW: allow} if allow else None)


def detail(path: Sequence[str], code: str, message: str) -> Detail:
    return {
        "path": [part[:TEXT_CHARACTERS_MAX] for part in path[:PATH_PARTS_MAX]],
        "code": code,
        "message": message.removeprefix("Value error, ")[:TEXT_CHARACTERS_MAX],
    }
