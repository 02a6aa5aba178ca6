"""Ledgers in a state that a test needs."""

from __future__ import annotations

from dedup_assets.storage.ledger import STAGES, Admission, Ledger


def admit(ledger: Ledger, number: int, shard: str, content: str = "1") -> Admission:
    """Record the admission of a registered shard, with the completion of its stage."""
    admission = Admission(number, shard, content, 1, 1, 1)
    ledger.admit([admission], [(shard, admission.input_version, {}, 0.0)], "cluster_partitions", "run")
    return admission


def finish(ledger: Ledger, number: int, shard: str, content: str = "1") -> Admission:
    """Record all stages of a registered shard."""
    for stage in STAGES[:3]:
        ledger.complete(stage, [(shard, content, {}, 0.0)], "run")
    admission = admit(ledger, number, shard, content)
    for stage in STAGES[4:]:
        ledger.complete(stage, [(shard, admission.input_version, {}, 0.0)], "run")
    return admission
