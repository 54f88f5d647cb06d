"""The HTTP API of the installed gateway: the same facts as the commands, and nothing that its document does not say."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from admin_http import api_values as values
from admin_http.api_source import Shape
from tests.support.api import HEALTH, Reply, call
from tests.support.installed import WORKSPACE, InstalledGateway, run

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
EXAMPLES = 15  # of each operation; the coverage phase makes some 50 more
ASKED_OFTEN = {"http_api_requests_per_minute": 100_000, "http_api_strangers_per_minute": 100_000}


@pytest.fixture(scope="module")
def token(walled: InstalledGateway) -> Iterator[str]:
    """One that writes."""
    yield mint(walled, "tests", "write")
    walled.homeport("token", "revoke", "tests")


def mint(gateway: InstalledGateway, name: str, scope: str) -> str:
    return gateway.homeport("token", "mint", name, "--scope", scope).stdout.decode().strip()


def said(gateway: InstalledGateway, *words: str) -> object:
    return json.loads(gateway.homeport(*words, "--json").stdout)


def get(gateway: InstalledGateway, path: str, token: str) -> dict[str, object]:
    reply = call(gateway.http_port, path, token=token)
    assert reply.status == 200, reply
    return reply.json()


def test_api_tells_of_workspaces_sessions_and_the_journal_what_the_commands_tell(
    walled: InstalledGateway, token: str
) -> None:
    """S138, S153: one function makes each shape."""
    walled.ssh("true")
    walled.until_no_live_row()
    assert get(walled, "/api/v1/workspaces", token)["workspaces"] == said(walled, "ls")
    assert get(walled, f"/api/v1/workspaces/{WORKSPACE}", token) in said(walled, "ls")  # type: ignore[operator]
    ended = get(walled, f"/api/v1/sessions?include_ended=true&workspace={WORKSPACE}&limit=1", token)["sessions"]
    assert ended[0] in said(walled, "sessions", "--all")  # type: ignore[index,operator]
    journal = get(walled, "/api/v1/auth-logs?action=login&limit=5", token)["auth_logs"]
    assert list(reversed(journal)) == said(walled, "log", "--action", "login", "--limit", "5")  # type: ignore[call-overload]


def test_every_field_that_is_answered_is_in_the_document_and_the_other_way_round(
    walled: InstalledGateway, token: str
) -> None:
    walled.ssh("true")

    def same(model: type[values.BaseModel], shape: Shape) -> None:
        assert set(shape) == set(model.model_fields), model.__name__
        model.model_validate(shape)

    same(values.Workspace, get(walled, f"/api/v1/workspaces/{WORKSPACE}", token))
    for path, model in (
        ("sessions?include_ended=true", values.Session),
        ("auth-logs", values.AuthLog),
        ("workspaces", values.Workspace),
    ):
        body = get(walled, f"/api/v1/{path}", token)
        for row in body[path.partition("?")[0].replace("-", "_")]:  # type: ignore[attr-defined]
            same(model, row)
        same(values.Pagination, body["pagination"])  # type: ignore[arg-type]
    same(values.Stats, get(walled, "/api/v1/stats", token))
    health = get(walled, "/health/detailed", token)
    same(values.Health, health)
    assert set(health) == set(HEALTH)


def test_workspace_that_is_made_can_be_entered_and_its_maker_is_on_record(walled: InstalledGateway, token: str) -> None:
    def post(body: object) -> Reply:
        return call(walled.http_port, "/api/v1/workspaces", token=token, method="POST", body=body)

    assert post({"name": "By-API", "description": "made by a test"}).status == 201
    try:
        assert walled.ssh("pwd", workspace="by-api").stdout == b"/workspaces/by-api\n"
        assert post({"name": "by-api"}).json()["code"] == "name_taken"
        rows = said(walled, "log", "--workspace", "by-api", "--action", "api_access")
        assert [(row["success"], row["details"]["principal"]) for row in rows] == [  # type: ignore[attr-defined]
            (True, "token:tests"),
            (False, "token:tests"),
        ]
        made = said(walled, "log", "--workspace", "by-api", "--action", "workspace_created")
        assert [row["details"]["by"] for row in made] == ["token:tests"]  # type: ignore[attr-defined]
        counted = call(walled.http_port, "/metrics", token=None).body.decode()
        assert re.search(r'(?m)^homeport_api_calls_total\{status="201"\} [1-9]', counted)
        assert "by-api" not in counted
    finally:
        walled.homeport("kill", "--workspace", "by-api")
        walled.homeport("rm", "by-api")


def test_declared_clone_is_answered_at_once(walled: InstalledGateway, token: str) -> None:
    """Its address leads nowhere from here: nothing is cloned before the first login."""
    body = {"name": "declared", "github_repo": "octocat/hello-world"}
    reply = call(walled.http_port, "/api/v1/workspaces", token=token, method="POST", body=body)
    try:
        assert (reply.status, reply.json()["github_repo"]) == (201, "octocat/hello-world")
        again = call(walled.http_port, "/api/v1/workspaces", token=token, method="POST", body={**body, "name": "other"})
        assert (again.status, again.json()["code"]) == (409, "name_taken")
    finally:
        walled.homeport("rm", "declared", check=False)


def test_revoked_token_is_refused_at_once(walled: InstalledGateway) -> None:
    token = mint(walled, "short", "read")
    assert call(walled.http_port, "/api/v1/stats", token=token).status == 200
    walled.homeport("token", "revoke", "short")
    refused = call(walled.http_port, "/api/v1/stats", token=token)
    assert (refused.status, refused.json()["code"]) == (401, "invalid_token")


def test_database_holds_no_token(walled: InstalledGateway, token: str) -> None:
    """S195, flaw 33: a copy of it lets nobody in."""
    assert token.startswith("hp_")
    for file in walled.state_dir.glob("homeport.db*"):
        assert token.encode() not in file.read_bytes()
    assert token not in walled.log.text()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_api_keeps_what_its_document_promises() -> None:
    """Schemathesis makes requests of the document, good and bad ones, with a token of either scope. Every answer must
    be one that the document names, in its shape, and no failure of the gateway's own."""
    gateway = InstalledGateway("none", workspaces_max=6, **ASKED_OFTEN)
    try:
        gateway.set_up()
        tokens = {scope: mint(gateway, scope, scope) for scope in ("write", "read")}
        for token in tokens.values():
            check_document(gateway, token)
        assert len(gateway.rows("SELECT id FROM workspaces")) > 1
        gateway.reload()
        assert {call(gateway.http_port, "/api/v1/stats", token=token).status for token in tokens.values()} == {200}
        assert gateway.log.failures() == []
    finally:
        gateway.close()
        gateway.remove()


def check_document(gateway: InstalledGateway, token: str) -> None:
    where = f"http://127.0.0.1:{gateway.http_port}/api/v1/openapi.json"
    # Bodies that the document allows may be refused all the same: a name may be reserved, or taken.
    options = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--seed", "1", "-n", str(EXAMPLES),
               "--suppress-health-check", "all", "--no-color"]  # fmt: skip
    command = [str(SCHEMATHESIS), "run", where, "-H", f"Authorization: Bearer {token}", *options]
    done = run(command, cwd=str(gateway.directory), timeout=120)  # it leaves its examples there
    shown = done.stdout.decode()
    assert done.returncode == 0, shown
    counted = re.search(r"(\d+) generated, (\d+) passed", shown)
    assert counted is not None, shown
    assert int(counted[1]) > 200
