"""The GitHub token is there and valid when somebody asks, and renewed once however many do."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import CommandRefused, GatewayError, GithubUnavailable, SecretUnreadable, StoreUnavailable
from gateway.file_lock import file_lock
from gateway.github import tokens as github_tokens
from gateway.github.tokens import GithubRow
from gateway.journal import JournalAction
from tests.support.github_account import AccountRig, account_rig

RENEWAL = "POST /login/oauth/access_token"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[AccountRig]:
    """Logged in by an app whose tokens expire after eight hours."""
    async with account_rig(tmp_path, is_github_app=True) as rig:
        await rig.log_in()
        rig.github.asked.clear()
        yield rig


@pytest.fixture
async def personal(tmp_path: Path) -> AsyncIterator[AccountRig]:
    async with account_rig(tmp_path) as rig:
        yield rig


def refreshes(rig: AccountRig) -> list[bool]:
    return [success for action, success, _ in rig.store.journal if action is JournalAction.TOKEN_REFRESH]


# -------------------------------------------------------------------------------------------------- the token


async def test_a_token_names_the_one_host_it_is_for(rig: AccountRig):
    token = await rig.account.git_token()
    assert f"{token.protocol}://{token.host}" == rig.github.web_url
    assert rig.github.tokens[token.secret].is_valid
    assert token.expires_at == rig.store.row.expires_at


async def test_no_token_is_an_error_with_the_command_that_logs_in(personal: AccountRig):
    assert not await personal.account.has_token()
    with pytest.raises(CommandRefused, match="nobody is logged in to GitHub; log in with: homeport github login"):
        await personal.account.git_token()


async def test_a_classic_token_has_no_expiry_and_is_never_renewed(personal: AccountRig):
    await personal.account.login_with_token(personal.github.new_token())
    personal.clock.pass_by(days=3000)
    assert (await personal.account.git_token()).expires_at is None
    assert await personal.account.tokens.refresh_if_due() == "nothing to renew"
    assert await personal.account.tokens.expires_seconds() is None


async def test_a_personal_token_that_has_expired_is_not_handed_out(personal: AccountRig):
    import time

    secret = personal.github.new_token(expires_at=time.time() + 3600, tells_expiry=True)
    await personal.account.login_with_token(secret)
    assert (await personal.account.git_token()).secret == secret
    personal.clock.pass_by(hours=1, seconds=5)
    with pytest.raises(CommandRefused, match="has expired; log in with"):
        await personal.account.git_token()


async def test_secrets_are_in_no_repr_and_no_log(rig: AccountRig, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    rig.clock.pass_by(hours=7, minutes=50)
    token = await rig.account.git_token()
    secrets = [*rig.github.tokens, *rig.github.refresh_tokens]
    shown = repr([token, rig.store.row, rig.store.journal, vars(rig.account), vars(rig.account.tokens)]) + caplog.text
    assert len(secrets) == 3
    assert [secret for secret in secrets if secret in shown] == []


# -------------------------------------------------------------------------------------------------- renewing


async def test_a_token_is_not_renewed_before_its_time(rig: AccountRig):
    rig.clock.pass_by(hours=7, minutes=44)
    assert await rig.account.tokens.refresh_if_due() == "nothing to renew"
    await rig.account.git_token()
    assert rig.github.asked == []


async def test_fifteen_minutes_before_the_end_the_job_renews_it(rig: AccountRig):
    old = await rig.account.git_token()
    rig.clock.pass_by(hours=7, minutes=46)
    assert await rig.account.tokens.refresh_if_due() == "renewed"
    new = await rig.account.git_token()
    assert new.secret != old.secret
    assert not rig.github.tokens[old.secret].is_valid
    assert refreshes(rig) == [True]
    status = await rig.account.status()
    assert (status.refreshed_at is not None, status.login) == (True, "octocat")


async def test_fifty_who_ask_at_once_share_one_renewal(rig: AccountRig):
    """A refresh token works once: a second renewal would log the owner out."""
    rig.clock.pass_by(hours=7, minutes=50)
    tokens = await asyncio.gather(*[rig.account.git_token() for _ in range(50)])
    assert len({token.secret for token in tokens}) == 1
    assert rig.github.asked == [RENEWAL]


async def test_two_processes_share_one_renewal(rig: AccountRig):
    """A gateway that was replaced serves on beside the new one, on the same state."""
    other = rig.another_process()
    rig.clock.pass_by(hours=7, minutes=50)
    tokens = await asyncio.gather(*[account.git_token() for account in [rig.account, other] * 10])
    await other.close()
    assert len({token.secret for token in tokens}) == 1
    assert rig.github.asked == [RENEWAL]


async def test_who_asked_may_vanish_and_the_renewal_still_ends_well(rig: AccountRig):
    """Cancelled between GitHub's answer and the write, both the old pair and the new one would be lost."""
    rig.clock.pass_by(hours=7, minutes=50)
    for _ in range(5):
        asking = asyncio.ensure_future(rig.account.git_token())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
    token = await rig.account.git_token()
    assert rig.github.tokens[token.secret].is_valid
    assert rig.github.count(RENEWAL) == 1


async def test_closing_waits_for_a_renewal_that_is_under_way(rig: AccountRig):
    rig.clock.pass_by(hours=7, minutes=50)
    asking = asyncio.ensure_future(rig.account.git_token())
    await asyncio.sleep(0)
    asking.cancel()
    await rig.account.close()
    assert refreshes(rig) in ([True], [])  # begun or not, it is whole
    opened = rig.vault.open(rig.store.row.token, github_tokens.TOKEN_PLACE)  # type: ignore[arg-type]
    assert rig.github.tokens[opened].is_valid


async def test_closing_does_not_wait_for_a_github_that_hangs(rig: AccountRig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(github_tokens, "CLOSE_SECONDS", 0.05)
    rig.github.is_silent = True
    rig.clock.pass_by(hours=7, minutes=50)
    asking = asyncio.ensure_future(rig.account.git_token())
    while not rig.github.asked:
        await asyncio.sleep(0.001)
    async with asyncio.timeout(5):
        await rig.account.close()
    await asyncio.wait({asking})
    assert asking.cancelled()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "github:renewal"]


async def test_both_tokens_change_in_one_write(rig: AccountRig, monkeypatch: pytest.MonkeyPatch):
    rows: list[GithubRow] = []

    async def save(row: GithubRow) -> None:
        rows.append(row)
        rig.store.row = row

    monkeypatch.setattr(rig.store, "save_github", save)
    before = rig.store.row
    rig.clock.pass_by(hours=7, minutes=50)
    await rig.account.git_token()
    [after] = rows
    assert after.token != before.token
    assert after.refresh_token != before.refresh_token
    assert after.expires_at != before.expires_at


async def test_where_nothing_can_be_written_the_old_pair_is_not_given_up(rig: AccountRig):
    """The refresh token works once: on a full disk it would be spent and its successor lost."""
    old = await rig.account.git_token()
    rig.clock.pass_by(hours=7, minutes=50)
    rig.store.is_full = StoreUnavailable("the disk is full")
    assert (await rig.account.git_token()).secret == old.secret
    assert rig.github.asked == []
    rig.store.is_full = None
    rig.account.tokens._retry_at = 0.0
    assert (await rig.account.git_token()).secret != old.secret


# -------------------------------------------------------------------------------------------------- failures


async def test_while_github_is_away_the_old_token_serves_until_it_expires(rig: AccountRig):
    old = await rig.account.git_token()
    rig.github.is_down = True
    rig.clock.pass_by(hours=7, minutes=50)
    assert (await rig.account.git_token()).secret == old.secret
    assert (await rig.account.git_token()).secret == old.secret
    assert rig.github.asked == [RENEWAL], "right after a failure GitHub is left alone"
    assert refreshes(rig) == [False]
    status = await rig.account.status()
    assert (status.is_logged_in, status.refresh_failure) == (True, f"{old.host} fails (HTTP 502); try again later")
    rig.clock.pass_by(minutes=10, seconds=1)
    with pytest.raises(GithubUnavailable, match=r"expired and could not be renewed: .*HTTP 502"):
        await rig.account.git_token()


async def test_when_github_is_back_the_token_is_renewed_and_the_failure_forgotten(rig: AccountRig):
    rig.github.is_down = True
    rig.clock.pass_by(hours=9)
    assert await rig.account.tokens.refresh_if_due() == "not renewed"
    rig.github.is_down = False
    assert await rig.account.tokens.refresh_if_due() == "renewed"
    status = await rig.account.status()
    assert (status.refresh_failed_at, status.refresh_failure, status.check) == (None, None, "valid")
    assert refreshes(rig) == [False, True]


async def test_a_refresh_token_that_was_revoked_ends_the_login_in_one_line(rig: AccountRig):
    changed = []

    async def on_change() -> None:
        changed.append(await rig.account.has_token())

    rig.account.tokens.changed = on_change
    rig.github.refresh_tokens.clear()
    rig.clock.pass_by(hours=7, minutes=50)
    with pytest.raises(CommandRefused, match=r"does not renew the login any more \(bad_refresh_token\); log in with: "):
        await rig.account.git_token()
    assert rig.store.row == replace(GithubRow(), profile=rig.store.row.profile)
    assert (refreshes(rig), changed) == ([False], [False])
    status = await rig.account.status()
    assert (status.is_logged_in, status.login) == (False, "octocat")
    assert "bad_refresh_token" in (status.ended or "")


async def test_an_app_that_was_changed_at_github_does_not_end_the_login(rig: AccountRig):
    """`incorrect_client_credentials` is the operator's to repair; the tokens may still be good."""
    rig.github.client_id = "another"
    rig.clock.pass_by(hours=7, minutes=50)
    await rig.account.git_token()
    assert await rig.account.has_token()
    assert refreshes(rig) == [False]


async def test_an_answer_that_breaks_off_after_github_has_renewed_ends_with_a_clear_word(rig: AccountRig):
    """The new pair is lost with the line, and nobody can bring it back: say so, at the latest when the old one ends."""
    rig.github.drops_refresh_answers = 1
    rig.clock.pass_by(hours=7, minutes=50)
    await rig.account.git_token()
    rig.account.tokens._retry_at = 0.0
    with pytest.raises(CommandRefused, match="bad_refresh_token"):
        await rig.account.git_token()


async def test_a_server_that_refused_the_token_has_it_renewed_although_it_is_not_due(rig: AccountRig):
    old = await rig.account.git_token()
    rig.github.tokens[old.secret].is_revoked = True
    await asyncio.gather(*[rig.account.token_suspected() for _ in range(5)])
    new = await rig.account.git_token()
    assert rig.github.tokens[new.secret].is_valid
    assert rig.github.count(RENEWAL) == 1


async def test_a_suspicion_without_ground_changes_nothing(rig: AccountRig):
    before = rig.store.row
    await rig.account.token_suspected()
    assert rig.store.row == before


@pytest.mark.parametrize("trouble", ["is_down", "body_instead"])
async def test_a_suspicion_that_github_does_not_answer_changes_nothing(rig: AccountRig, trouble: str):
    before = rig.store.row
    setattr(rig.github, trouble, b"<html>" if trouble == "body_instead" else True)
    await rig.account.token_suspected()
    assert rig.store.row == before


async def test_a_personal_token_that_was_revoked_ends_the_login(personal: AccountRig):
    secret = personal.github.new_token()
    await personal.account.login_with_token(secret)
    personal.github.revoke(secret)
    await personal.account.token_suspected()
    with pytest.raises(CommandRefused, match="GitHub has revoked the token; log in with"):
        await personal.account.git_token()


async def test_the_lock_of_another_process_is_not_waited_for_without_end(
    rig: AccountRig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(github_tokens, "LOCK_SECONDS", 0.05)
    old = await rig.account.git_token()
    rig.clock.pass_by(hours=7, minutes=50)
    async with file_lock(rig.keys_dir.parent / github_tokens.LOCK_FILE, seconds=1):
        assert (await rig.account.git_token()).secret == old.secret
        with pytest.raises(GithubUnavailable, match="being changed by another command"):
            await rig.account.logout()


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_at_once_the_account_ends_with_a_good_token_or_a_reason(tmp_path: Path, seed: int):
    """Renewals, revocations, rotations, logins by two processes, some of them cancelled; GitHub away now and then."""
    dice = random.Random(seed)
    async with account_rig(tmp_path, is_github_app=True) as rig:
        await rig.log_in()
        other = rig.another_process()

        async def something() -> None:
            account = dice.choice([rig.account, other])
            match dice.randrange(7):
                case 0 | 1:
                    await account.git_token()
                case 2:
                    await account.token_suspected()
                case 3:
                    await account.rotate_vault()
                case 4:
                    await account.tokens.refresh_if_due()
                case 5:
                    await account.repositories(search=None, page=1, limit=5)
                case 6:
                    await rig.log_in()

        for _ in range(3):
            rig.clock.pass_by(hours=dice.choice([0, 0, 7.8]))
            rig.github.is_down = dice.random() < 0.2
            if dice.random() < 0.3:  # by hand, as an owner might; what renews it stays good
                for token in rig.github.tokens.values():
                    token.is_revoked = True
            tasks = [asyncio.ensure_future(something()) for _ in range(6)]
            for task in tasks:
                await asyncio.sleep(dice.random() / 500)
                if dice.random() < 0.3:
                    task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [
                error for error in done if isinstance(error, Exception) and not isinstance(error, GatewayError)
            ] == []
        rig.github.is_down = False
        for account in (rig.account, other):
            account.tokens._retry_at = 0.0
            await account.token_suspected()
            token = await account.git_token()
            assert rig.github.tokens[token.secret].is_valid, "nothing above ends a login for good"
        await other.close()
        await rig.account.rotate_vault()
        assert len(rig.vault.key_ids()) == 1


# ------------------------------------------------------------------------------------------------- the vault


async def test_a_changed_secret_is_refused_and_written_down_once(rig: AccountRig):
    sealed = rig.store.row.token
    assert sealed is not None
    rig.store.row = replace(rig.store.row, token=replace(sealed, iv="AAAAAAAAAAAAAAAA"))
    for _ in range(3):
        with pytest.raises(SecretUnreadable, match=r"settings\.github_token cannot be opened: it was changed"):
            await rig.account.git_token()
    assert refreshes(rig) == [False]


async def test_tokens_of_one_column_do_not_open_in_the_other(rig: AccountRig):
    row = rig.store.row
    rig.store.row = replace(row, token=row.refresh_token, refresh_token=row.token)
    with pytest.raises(SecretUnreadable):
        await rig.account.git_token()


async def test_rotation_seals_all_anew_and_leaves_one_key(rig: AccountRig):
    before, old_keys = rig.store.row, rig.vault.key_ids()
    token = await rig.account.git_token()
    assert await rig.account.rotate_vault() == 1
    after = rig.store.row
    assert after.token != before.token
    assert after.refresh_token != before.refresh_token
    assert (after.expires_at, after.profile) == (before.expires_at, before.profile)
    assert (len(rig.vault.key_ids()), set(rig.vault.key_ids()) & set(old_keys)) == (1, set())
    assert (await rig.account.git_token()).secret == token.secret
    rig.clock.pass_by(hours=7, minutes=50)
    assert (await rig.account.git_token()).secret != token.secret


async def test_rotation_without_secrets_makes_the_first_key(personal: AccountRig):
    assert await personal.account.rotate_vault() == 0
    assert len(personal.vault.key_ids()) == 1


@pytest.mark.parametrize("dies_in", ["make_key", "save_github", "remove_keys"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_rotation_that_is_cut_off_anywhere_loses_nothing(
    rig: AccountRig, monkeypatch: pytest.MonkeyPatch, dies_in: str, after: bool
):
    """As if the process was killed before or after each of its three steps; then the next rotation tidies up."""
    token = await rig.account.git_token()
    target = rig.store if dies_in == "save_github" else rig.vault
    real = getattr(target, dies_in)

    async def cut_off_write(*args: object) -> None:
        if after:
            await real(*args)
        raise KilledError

    def cut_off(*args: object, **options: object) -> None:
        if after:
            real(*args, **options)
        raise KilledError

    monkeypatch.setattr(target, dies_in, cut_off_write if dies_in == "save_github" else cut_off)
    with pytest.raises(KilledError):
        await rig.account.rotate_vault()
    monkeypatch.undo()
    other = rig.another_process()
    assert (await other.git_token()).secret == token.secret
    await other.rotate_vault()
    assert len(rig.vault.key_ids()) == 1
    assert (await other.git_token()).secret == token.secret
    await other.close()


async def test_rotation_and_renewal_at_the_same_time_lose_nothing(rig: AccountRig):
    rig.clock.pass_by(hours=7, minutes=50)
    await asyncio.gather(rig.account.rotate_vault(), rig.account.git_token(), rig.account.rotate_vault())
    token = await rig.account.git_token()
    assert rig.github.tokens[token.secret].is_valid
    assert len(rig.vault.key_ids()) == 1


class KilledError(Exception):
    """The process ends here."""
