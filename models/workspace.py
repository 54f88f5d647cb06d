"""A named home plus a working tree, usually a clone of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tortoise import fields
from tortoise.models import Model

from gateway.ids import new_id
from gateway.interfaces import Forwarding

if TYPE_CHECKING:
    from models.session import Session


class Workspace(Model):
    """CHECKs: the slug is a login name; a repository has its URL (a URL alone is one outside GitHub); closed sets.

    `github_repo` is compared without case (COLLATE NOCASE), since GitHub does so. `github_id` came with the second
    migration, `forwarding` and `shell` with the third, what has to do with cloning and archiving with the sixth.
    """

    id = fields.CharField(primary_key=True, max_length=36, default=new_id)
    name = fields.CharField(max_length=50, unique=True)  # as given, for display
    slug = fields.CharField(max_length=50, unique=True)  # what stands before the @: the name, case-folded
    github_repo = fields.CharField(max_length=140, unique=True, null=True)  # owner (39) / repository (100)
    github_url = fields.TextField(null=True)
    github_id = fields.BigIntField(null=True)  # survives renames on GitHub; CHECK: positive
    local_path = fields.TextField()  # made from the id, never from the name or by a client
    branch = fields.CharField(max_length=255, default="main")
    description = fields.CharField(max_length=200, null=True)
    is_active = fields.BooleanField(default=True)  # False: archived
    is_recorded = fields.BooleanField(default=True)
    forwarding = fields.CharEnumField(Forwarding, max_length=10, null=True, description="Forwarding")
    shell = fields.CharField(max_length=255, null=True)  # absolute path of the login shell; CHECK: it is one
    last_sync_at = fields.DatetimeField(null=True)
    is_cloned = fields.BooleanField(default=True)  # False: declared; the clone is made at the first login
    clone_branch = fields.CharField(max_length=255, null=True)  # of a declared one; null: the remote's default
    archived_at = fields.DatetimeField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)
    updated_at = fields.DatetimeField(auto_now=True)

    sessions: fields.ReverseRelation[Session]

    class Meta:
        table = "workspaces"
