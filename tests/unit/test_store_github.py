"""The GitHub account in the database: all of it changes at once, and nothing else does."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.github.tokens import GithubRow
from gateway.github.vault import Sealed
from tests.support.store import migrated_file, opened_store

ROW = GithubRow(
    token=Sealed("v1.k.AAAA", "iv1"),
    refresh_token=Sealed("v1.k.BBBB", "iv2"),
    expires_at=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
    profile={"login": "octocat", "scopes": ["repo"], "name": "Ω"},
)


async def test_there_is_no_account_before_somebody_logs_in(tmp_path: Path):
    async with opened_store(tmp_path) as store:
        assert await store.github_row() == GithubRow()


async def test_the_account_is_kept_whole_and_beside_the_other_settings(tmp_path: Path):
    async with opened_store(tmp_path) as store:
        await store.set_theme("dark")
        await store.set_preferences({"shell": "zsh"})
        await store.save_github(ROW)
    async with opened_store(tmp_path) as store:
        assert await store.github_row() == ROW
        assert (await store.theme(), await store.preferences()) == ("dark", {"shell": "zsh"})
        await store.set_theme("light")
        assert await store.github_row() == ROW
        await store.save_github(GithubRow())
        assert await store.github_row() == GithubRow()
        assert await store.theme() == "light"


async def test_one_statement_replaces_both_tokens(tmp_path: Path):
    """A reader in between, or a crash, never meets the old one of one beside the new one of the other."""
    async with opened_store(tmp_path) as store:
        await store.save_github(ROW)
        seen: list[tuple[str, str]] = []
        with sqlite3.connect(tmp_path / "homeport.db") as reader:
            for number in range(20):
                sealed = Sealed(f"v1.k.{number}", f"iv{number}")
                await store.save_github(GithubRow(sealed, sealed, ROW.expires_at, ROW.profile))
                seen += reader.execute("SELECT github_token, github_refresh_token FROM settings").fetchall()
        reader.close()
        assert all(token == refresh_token for token, refresh_token in seen)
        assert len(seen) == 20


@pytest.mark.parametrize("column", ["github_token", "github_refresh_token"])
async def test_a_token_without_its_nonce_is_refused_by_the_database(tmp_path: Path, column: str):
    with sqlite3.connect(await migrated_file(tmp_path)) as database:
        for values in (f"({column}) VALUES ('x')", f"({column}_iv) VALUES ('x')", "(id) VALUES ('second')"):
            with pytest.raises(sqlite3.IntegrityError):
                database.execute(f"INSERT INTO settings {values}")
    database.close()


async def test_a_profile_that_is_no_json_counts_as_none(tmp_path: Path):
    async with opened_store(tmp_path) as store:
        await store.save_github(ROW)
        with sqlite3.connect(tmp_path / "homeport.db") as database:
            database.execute("UPDATE settings SET github_profile = '[1]'")
        database.close()
        assert (await store.github_row()).profile == {}
