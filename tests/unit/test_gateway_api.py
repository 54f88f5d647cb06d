"""What the API stands on, over a real store: tokens that count, and what is written down of a change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from admin_http import api_values as values
from admin_http.api_source import Span, WantedWorkspace
from gateway.api import GatewayApi
from gateway.bearer import TOLERANCE, hash_of, new_token
from gateway.errors import NameTaken
from gateway.interfaces import ApiScope, Measurement, Workspace
from gateway.journal import JournalAction
from gateway.store.store import Store
from gateway.upkeep.details import figures
from tests.support.store import opened_store

FIRST = Span(page=1, limit=20)


class Upkeep:
    version = "1.2.3"
    reasons: tuple[str, ...] = ()
    degraded = False

    def uptime_seconds(self) -> float:
        return 1.23456

    def is_degraded(self) -> bool:
        return self.degraded

    def warnings(self) -> list[str]:
        return []

    async def not_ready_reasons(self) -> tuple[str, ...]:
        return self.reasons

    async def figures(self) -> dict[str, object]:
        return figures(Path("/"), Path("/nowhere"), backup_age_seconds=lambda: None)


class Yard:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked: dict[str, Any] = {}

    async def create(self, **asked: Any) -> Workspace:
        self.asked = asked
        await asked["progress"].write(b"cloning\n")
        return await self.store.add_workspace(asked["name"])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path) as store:
        yield store


@pytest.fixture
def api(store: Store) -> GatewayApi:
    return GatewayApi(store, Yard(store), ends_at=dict, upkeep=Upkeep())  # type: ignore[arg-type]


async def minted(store: Store, name: str, *, expires_at: datetime) -> str:
    secret = new_token()
    token_hash = hash_of(secret)
    assert token_hash is not None
    await store.add_api_token(
        name=name, token_hash=token_hash, scope=ApiScope.WRITE, created_by="ana", expires_at=expires_at
    )
    return secret


async def test_token_counts_until_it_expires_or_is_revoked(store: Store, api: GatewayApi) -> None:
    now = datetime.now(UTC)
    good = await minted(store, "good", expires_at=now + timedelta(hours=1))
    late = await minted(store, "late", expires_at=now - TOLERANCE / 2)
    old = await minted(store, "old", expires_at=now - TOLERANCE)
    found = [await api.find_token(secret) for secret in (good, late, old, new_token(), "", good + "\n")]
    assert [token and token.name for token in found] == ["good", "late", None, None, None, None]
    assert await api.find_token(hash_of(good) or "") is None  # what the database holds is no token
    await store.remove_api_token("good")
    assert await api.find_token(good) is None


async def test_change_is_on_record_under_the_token_s_name(store: Store, api: GatewayApi) -> None:
    token = await api.find_token(await minted(store, "ci", expires_at=datetime.now(UTC) + timedelta(hours=1)))
    assert token is not None
    made = await api.create_workspace(WantedWorkspace("App", "octocat/app", "dev", "words"), by=token)
    asked = api._yard.asked  # type: ignore[attr-defined]
    assert made["name"] == "app"
    assert (asked["source"], asked["branch"], asked["description"], asked["is_declared"]) == (
        "octocat/app", "dev", "words", True,
    )  # fmt: skip
    with pytest.raises(NameTaken):
        await api.create_workspace(WantedWorkspace("app", None, None, None), by=token)
    assert asked is not api._yard.asked  # type: ignore[attr-defined]
    assert api._yard.asked["is_declared"] is False  # type: ignore[attr-defined]
    rows = await store.list_auth_logs(action=JournalAction.WORKSPACE_CREATED)
    assert [row.details for row in rows] == [{"by": "token:ci", "workspace": "app"}]
    assert (await api.workspaces(FIRST, include_archived=False)).total == 1
    assert await api.workspace("APP") == made
    assert await api.workspace("none") is None


async def test_health_says_whether_a_login_would_work_and_has_the_last_sample(store: Store, api: GatewayApi) -> None:
    """S174, S176."""
    upkeep: Any = api._upkeep
    health = await api.health()
    assert (health["status"], health["uptime_seconds"], health["cpu_percent"]) == ("healthy", 1.235, None)
    assert (health["database_bytes"], health["backup_age_seconds"]) == (0, None)
    upkeep.degraded = True
    await store.add_metrics([Measurement("cpu_usage", 12.5, "percent")])
    health = await api.health()
    assert (health["status"], health["cpu_percent"]) == ("degraded", 12.5)
    upkeep.reasons = ("database is not writable",)
    health = await api.health()
    assert (health["status"], health["not_ready_reasons"]) == ("unhealthy", ["database is not writable"])
    values.Health.model_validate(health)


async def test_measurements_are_told_in_the_documented_shape(store: Store, api: GatewayApi) -> None:
    """S177 is the last line."""
    before = datetime.now(UTC)
    await store.add_metrics([Measurement("cpu_usage", 1.5, "percent", {"cpus": 2})])
    rows = await api.metrics(FIRST, metric="cpu_usage", since=before, until=datetime.now(UTC))
    (row,) = rows.rows
    assert (rows.total, row["value"], row["metadata"]) == (1, 1.5, {"cpus": 2})
    assert set(row) == set(values.Metric.model_fields)
    values.Metric.model_validate(row)
    assert set(await api.stats()) == set(values.Stats.model_fields)
