"""Public keys that may log in."""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model

from gateway.ids import new_id


class AccessKey(Model):
    """CHECKs: name and key are not empty; `workspaces` (a list, or null for all) and `options` are JSON."""

    id = fields.CharField(primary_key=True, max_length=36, default=new_id)
    name = fields.CharField(max_length=100, unique=True)
    fingerprint = fields.CharField(max_length=100, unique=True)  # SHA256:…
    public_key = fields.TextField()  # one OpenSSH line without options
    workspaces = fields.TextField(null=True)
    options = fields.TextField(default="{}")
    expires_at = fields.DatetimeField(null=True)
    last_used_at = fields.DatetimeField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "access_keys"
