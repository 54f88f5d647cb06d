"""Bearer tokens of the HTTP API."""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model

from gateway.ids import new_id
from gateway.interfaces import ApiScope


class ApiToken(Model):
    """CHECKs: name and hash are not empty; the scope is a known one. Only the hash is kept: a copy of the database lets
    nobody in."""

    id = fields.CharField(primary_key=True, max_length=36, default=new_id)
    name = fields.CharField(max_length=100, unique=True)
    token_hash = fields.CharField(max_length=64, unique=True)  # SHA-256 of the token, in hexadecimal digits
    scope = fields.CharEnumField(ApiScope, max_length=10, description="ApiScope")
    created_by = fields.CharField(max_length=100)  # the principal, or "operator"
    expires_at = fields.DatetimeField()
    last_used_at = fields.DatetimeField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "api_tokens"
