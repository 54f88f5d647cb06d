"""The tables: columns, defaults, relations and indexes, nothing else. Queries live in gateway/store, the only importer.

The CHECK constraints stand in migrations/models/, because the schema generators emit none; each model names its own.
Times are UTC and aware. JSON is kept as text, and the database checks that it is JSON.
"""

from __future__ import annotations

from models.access_key import AccessKey
from models.api_token import ApiToken
from models.auth_log import AuthLog
from models.session import Session
from models.settings import Settings
from models.system_metric import SystemMetric
from models.workspace import Workspace

__all__ = ["AccessKey", "ApiToken", "AuthLog", "Session", "Settings", "SystemMetric", "Workspace"]
