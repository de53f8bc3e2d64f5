"""`Table`: one schema's table, as everything above L3 sees it."""

from __future__ import annotations

from typing import Any

from strata.l3.apply import Applied, Applier, Change, Status
from strata.l3.bulk import Bulk
from strata.l3.layout import Layout
from strata.l3.marks import Marks, Repair
from strata.l3.partials import Partials
from strata.l3.partition import partition_of
from strata.l3.reads import Reads, Row
from strata.l3.secrets import Sealed, Secrets
from strata.l3.spans import Spans
from strata.l3.stage import Stage
from strata.l3.writes import Writes, Written
from strata.model.plan import ModelPlan

__all__ = ["Applied", "Change", "Repair", "Row", "Sealed", "Status", "Table", "Written"]


class Table:
    """The statements of one table, made once. Thread-safe: the state is in the connection, which every method takes.

    `deferred` is true for write-behind schemas, whose deletions leave tombstones. `locked` says that writers take the
    shards' locks, so that every writing method needs a transaction: in write-behind schemas, and in tables that are
    partitioned by month. Methods raise `psycopg.Error`, which the context
    managers of `Database` turn into Strata's errors. Raises `InvalidModelError` for names that are
    Strata's own, and for a `partition_by` that cannot be.
    """

    def __init__(
        self, plan: ModelPlan[Any], name: str, *, schema_name: str, deferred: bool, partition_by: str | None = None
    ) -> None:
        self.partition = partition_of(plan, name, partition_by)
        layout = Layout(plan, name, schema_name, deferred=deferred, partition=self.partition)
        self.plan = plan
        self.name = name
        self.schema_name = schema_name
        self.deferred = deferred
        self.locked = layout.locked
        self.monthly = layout.monthly
        self.kept_names = layout.kept

        reads = Reads(layout)
        self.get = reads.get
        self.get_many = reads.get_many
        self.exists = reads.exists
        self.read_versions = reads.read_versions
        self.page = reads.page
        self.key_bounds = reads.key_bounds
        self.check = reads.check
        self.search = reads.search
        self.count = reads.count
        self.stream = reads.stream

        spans = Spans(layout)
        self.count_up_to = spans.count_up_to
        self.about = spans.about
        self.steps = spans.steps
        self.cuts = spans.cuts

        stage = Stage(layout)
        partials = Partials(layout, stage)
        writes = Writes(layout, partials)
        self.noted = partials.noted
        self.lock_shards = writes.lock_shards
        self.upsert = writes.upsert
        self.delete = writes.delete

        self.set_many = Bulk(layout, writes, stage).set_many
        self.apply = Applier(layout, writes, stage, partials).apply

        secrets = Secrets(layout)
        self.sealed_names = secrets.names
        self.sealed = secrets.page
        self.replace_sealed = secrets.replace

        marks = Marks(layout, writes)
        self.forget_tombstones = marks.forget_tombstones
        self.tombstone = marks.tombstone
        self.horizon = marks.horizon
        self.record_repair = marks.record_repair
        self.take_repairs = marks.take_repairs
        self.repairs_done = marks.repairs_done
