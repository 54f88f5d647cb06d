"""The OpenAPI document (3.1.0), made from the same table and models that route and check the requests."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from admin_http import api_values as values
from admin_http.answer import JSON_TYPE
from admin_http.api import OPERATIONS, Operation

_REFUSALS = {
    400: "A parameter or the body is not what this document says",
    401: "No token, or one that is unknown, revoked or expired",
    403: "The token's scope does not reach so far",
    404: "There is none",
    409: "The name or the repository is taken, or there is no room for more",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "Too many requests; Retry-After says in how many seconds there is room",
    500: "A failure of the gateway's own; the operator finds it by its id",
    503: "Not now: try again",
}
_EVERYWHERE = (400, 401, 429, 500, 503)
_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string", "pattern": "^Bearer"}, "required": True}},
    429: {"Retry-After": {"schema": {"type": "integer", "minimum": 1}, "required": True}},
}
_ABOUT = """\
Workspaces, sessions, the journal and measurements of one gateway. Times are RFC 3339 in UTC, sizes bytes, absent values
null. Fields are added within a version, never renamed or removed. Every page needs a token made with
`homeport token mint`; other methods than those below are answered with 405, unknown pages with 404."""


def openapi_document(version: str) -> bytes:
    refs, schemas = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.prefix + operation.path, {})[operation.method.lower()] = _described(operation, refs)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Homeport", "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "hp_…"}},
        },
    }
    return json.dumps(document, ensure_ascii=False, indent=1).encode() + b"\n"


def _schemas() -> tuple[dict[type[BaseModel], Any], dict[str, Any]]:
    """How each model is referred to, and all of them."""
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    answers = [operation.answer for operation in OPERATIONS if operation.answer is not None]
    used: dict[type[BaseModel], None] = dict.fromkeys([*bodies, *answers, values.Error, values.InternalError])
    by_mode, definitions = models_json_schema(
        [(model, "validation") for model in used], ref_template="#/components/schemas/{model}"
    )
    return {model: schema for (model, _), schema in by_mode.items()}, definitions["$defs"]  # type: ignore[misc]


def _described(operation: Operation, refs: dict[type[BaseModel], Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.run.__name__,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation.query)],
        "responses": {str(operation.status): _answered(operation, refs)},
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": refs[operation.body]}}}
        described["responses"][str(operation.status)]["headers"] = {
            "Location": {"schema": {"type": "string"}, "required": True}
        }
    for status in sorted({*_EVERYWHERE, *operation.refusals}):
        error = refs[values.InternalError if status == 500 else values.Error]
        if status == 503 and operation.answer is values.Health:
            error = {"anyOf": [refs[values.Health], error]}
        described["responses"][str(status)] = {
            "description": _REFUSALS[status],
            "headers": _HEADERS.get(status, {}),
            "content": {JSON_TYPE: {"schema": error}},
        }
    return described


def _answered(operation: Operation, refs: dict[type[BaseModel], Any]) -> dict[str, Any]:
    schema = {"type": "object"} if operation.answer is None else refs[operation.answer]
    return {"description": operation.summary, "content": {JSON_TYPE: {"schema": schema}}}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    if "{name}" not in path:
        return []
    return [{"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _plain(given, definitions),
        }
        for name, given in schema.get("properties", {}).items()
    ]


def _plain(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """As a parameter has it: left out is null, and its definitions stand in place."""
    kept = {name: value for name, value in schema.items() if name not in ("anyOf", "title")}
    if kept.get("default", 0) is None:
        del kept["default"]
    for choice in schema.get("anyOf", ()):
        if choice != {"type": "null"}:
            kept |= choice
    if "$ref" in kept:
        kept |= definitions[kept.pop("$ref").rpartition("/")[2]]
    kept.pop("title", None)
    return kept
