"""The one row of settings that people change at run time; what the operator sets stands in gateway/config.py."""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model

SINGLETON_ID = "singleton"


class Settings(Model):
    """CHECKs: no second row; a token and its nonce are null together; `preferences` and `github_profile` are JSON."""

    id = fields.CharField(primary_key=True, max_length=9, default=SINGLETON_ID)
    github_token = fields.TextField(null=True)  # ciphertext
    github_token_iv = fields.TextField(null=True)
    github_refresh_token = fields.TextField(null=True)  # ciphertext
    github_refresh_token_iv = fields.TextField(null=True)
    github_token_expires_at = fields.DatetimeField(null=True)
    github_profile = fields.TextField(null=True)  # JSON: login, name, email, scopes of whoever the token belongs to
    theme = fields.CharField(max_length=50, null=True)
    preferences = fields.TextField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)
    updated_at = fields.DatetimeField(auto_now=True)

    class Meta:
        table = "settings"
