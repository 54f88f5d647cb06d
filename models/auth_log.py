"""The journal: who came in, who was refused, what was changed."""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model

from gateway.ids import new_id
from gateway.journal import JournalAction


class AuthLog(Model):
    """CHECKs: `details` is JSON. Actions are closed in code only: new ones must not need a rebuilt table.

    Two more indexes, over what stands in `details`, are made by the fourth migration: no model can say them.
    list_auth_logs(workspace=…) and list_auth_logs(principal=…) need them.
    """

    id = fields.CharField(primary_key=True, max_length=36, default=new_id)
    action = fields.CharEnumField(JournalAction, max_length=40, description="JournalAction")
    success = fields.BooleanField()
    ip_address = fields.CharField(max_length=64, null=True)
    user_agent = fields.CharField(max_length=255, null=True)  # the SSH client's version, or an HTTP agent
    details = fields.TextField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "auth_logs"
        indexes = (
            # list_auth_logs, delete_auth_logs_before
            Index(fields=("created_at",), name="auth_logs_created_at_idx"),
            # list_auth_logs(action=…)
            Index(fields=("action", "created_at"), name="auth_logs_action_created_at_idx"),
            # list_auth_logs(client_ip=…)
            Index(fields=("ip_address", "created_at"), name="auth_logs_ip_address_created_at_idx"),
        )
