"""Measurements over time, one row per sample."""

from __future__ import annotations

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model


class SystemMetric(Model):
    """CHECKs: `metadata` is JSON. An integer key is enough for rows nobody refers to."""

    id = fields.BigIntField(primary_key=True, generated=True)
    metric = fields.CharField(max_length=50)
    value = fields.FloatField()
    unit = fields.CharField(max_length=20, null=True)
    metadata = fields.TextField(null=True)
    created_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "system_metrics"
        # metric_history: one metric over time, newest first
        indexes = (Index(fields=("metric", "created_at"), name="system_metrics_metric_created_idx"),)
