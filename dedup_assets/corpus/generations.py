"""Which decisions are due, in which generation and order, according to the ledger and the settings.

A published generation changes only by appending. Every other change begins a new one: other settings, a retraction, a
reference admitted after shards it is compared with, a rebuild.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dedup_assets.corpus.curation_order import in_curation_order
from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.corpus.output import publication_version
from dedup_assets.settings import Settings
from dedup_assets.storage.ledger import REFERENCE, Admission, Completion, Generation, Ledger, Rebuild
from dedup_assets.storage.workspace import Workspace

MATCHING = "pairwise_similarities"
DECIDING = "duplicate_ids"
PUBLISHING = "deduplicated_dataset"


@dataclass(frozen=True)
class Plan:
    """The next decisions.

    `batches` are decided in sequence, all records of a batch at once; `decided` counts the shards of the generation
    that were decided before. `answers` are the requests for a rebuild that the generation satisfies.
    """

    generation: Generation
    is_new: bool
    batches: list[list[Admission]]
    decided: int
    answers: list[Rebuild]

    @property
    def pending(self) -> list[Admission]:
        """All shards to decide, in order."""
        return [a for batch in self.batches for a in batch]


def decision_version(admission: Admission, generation: Generation) -> str:
    """Input version of a shard's decisions: its admission and the generation."""
    return f"{admission.input_version}/{generation.number}-{generation.fingerprint[:16]}"


def plan_decisions(
    ledger: Ledger,
    settings: Settings,
    decided: dict[str, Completion],
    live: Sequence[Admission],
    retractions: int,
    wanted: Collection[str],
) -> Plan | None:
    """The decisions due for the wanted shards; None if there are none.

    Parameters
    ----------
    ledger, settings
    decided : dict
        The completions of `DECIDING`, read before the admissions, so that a retraction in between begins a new
        generation and is not mistaken for a shard to be decided in this one.
    live : sequence of Admission
        The live admissions.
    retractions : int
        Number of the last retraction, read in one transaction with the admissions.
    wanted : collection of str
        Shard keys.
    """
    generation = ledger.generation()
    requests = ledger.rebuilds()
    rebuild = settings.mode == "rebuild" or bool(requests)
    last = live[-1].number if live else 0
    # Shards that an earlier generation decided stay decided, so a new one covers at least these.
    reach = max((a.number for a in live if a.shard in decided or a.shard in wanted), default=0)
    considered = generation.retractions if generation is not None else 0
    if rebuild or (retractions != considered and (generation is not None or reach)):
        # A retracted text may still be in any shard admitted before the retraction, and its matches are stored with
        # others. So all are decided now, including shards whose own run has not got this far.
        reach = last
    targets = in_curation_order([a for a in live if a.number <= reach])

    current = generation
    if (
        generation is None
        or generation.fingerprint != settings.fingerprint("decisions")
        or generation.retractions != retractions
        or requests
        or (settings.mode == "rebuild" and generation.rebuilt < last)
        or _late_reference(targets, generation, decided)
    ):
        current = None
    if current is None:
        if not targets and generation is None:
            return None
        new = Generation(
            number=1 if generation is None else generation.number + 1,
            fingerprint=settings.fingerprint("decisions"),
            mode=settings.mode,
            admissions=len(targets),
            rebuilt=_rebuilt(generation, settings, last if rebuild else 0),
            retractions=retractions,
        )
        return Plan(new, True, _batches(targets, new), 0, requests)
    pending = [a for a in targets if not _is_decided(a, current, decided)]
    before = sum(_is_decided(a, current, decided) for a in live)
    if not pending:
        return None
    return Plan(current, False, _batches(pending, current), before, [])


def _is_decided(a: Admission, generation: Generation, decided: dict[str, Completion]) -> bool:
    return a.shard in decided and decided[a.shard].input_version == decision_version(a, generation)


def _late_reference(targets: Sequence[Admission], generation: Generation, decided: dict[str, Completion]) -> bool:
    """Whether a reference would be decided after a corpus shard was decided without it."""
    late = any(a.role == REFERENCE and not _is_decided(a, generation, decided) for a in targets)
    return late and any(a.role != REFERENCE and _is_decided(a, generation, decided) for a in targets)


def _rebuilt(before: Generation | None, settings: Settings, last: int) -> int:
    """Number of the last admission that the rebuilt order covers: it stays until another rebuild or another mode."""
    if last or before is None or before.mode != settings.mode:
        return last
    return before.rebuilt


def _batches(admissions: list[Admission], generation: Generation) -> list[list[Admission]]:
    """One admission at a time, which needs the least memory, if texts were introduced in the curation order.

    After a retraction, the key of a text may belong to a retracted admission, and a reference may have been admitted
    after a shard that shares its texts: then all remaining shards are decided at once.
    """
    in_order = all(a.number < b.number for a, b in pairwise(admissions))
    whole = generation.rebuilt > 0 or generation.retractions > 0 or not in_order
    if whole and admissions:
        return [admissions]
    return [[a] for a in admissions]


def decidable(ledger: Ledger, shards: Collection[str]) -> list[str]:
    """The given shards for which a new decision can be requested: retracted ones, and those whose matches are computed.
    The others are decided in the run that admits them."""
    ready = {shard.key for shard in ledger.shards() if shard.retracted is not None} | set(ledger.completions(MATCHING))
    return sorted(ready.intersection(shards))


def decisions_due(workspace: Workspace) -> set[str]:
    """Decided shards whose decisions or published files do not match the current settings."""
    ledger = workspace.ledger
    if ledger.generation() is None:
        return set()
    decided = ledger.completions(DECIDING)
    living = LiveTexts(workspace)
    plan = plan_decisions(ledger, workspace.settings, decided, living.live, living.retractions, ())
    if plan is not None and plan.is_new:
        return set(decided)
    published = ledger.completions(PUBLISHING)
    return {
        shard
        for shard, done in decided.items()
        if shard in published and published[shard].input_version != publication_version(workspace, done.input_version)
    }
