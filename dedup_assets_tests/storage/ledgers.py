"""Ledgers in a state that a test needs."""

from __future__ import annotations

from dedup_assets.storage.ledger import Admission, Ledger


def admit(ledger: Ledger, number: int, shard: str, content: str = "1") -> Admission:
    """Enter an admission of a registered shard, with the completion of its stage."""
    admission = Admission(number, shard, content, 1, 1, 1)
    ledger.admit([admission], [(shard, admission.input_version, {}, 0.0)], "cluster_partitions", "run")
    return admission
