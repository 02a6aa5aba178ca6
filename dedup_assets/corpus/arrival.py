"""Compares the watched sources with the ledger and derives what to do.

Files are compared by the metadata of their file system, and read only where it differs from the recorded state. The
module does not use Dagster and changes nothing: the sensor carries out what a survey returns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dedup_assets.corpus.changes import changed_content_error, unfinished_shards
from dedup_assets.corpus.generations import DECIDING, decidable
from dedup_assets.corpus.registration import continues
from dedup_assets.errors import DedupError, SourceError, some
from dedup_assets.ingest.listing import Listed, Listing, Unread, list_source, unread_in_words
from dedup_assets.ingest.source_files import FileState, SourceFile, content_fingerprint, file_state
from dedup_assets.ingest.sources import as_shards
from dedup_assets.storage.ledger import CORPUS, REFERENCE, STAGES, TAKEDOWN, Completion, Shard
from dedup_assets.storage.workspace import Workspace

SETTLE_SECONDS = 3.0
"""A file modified more recently may still be in the middle of a write, however short the watch interval is."""

ATTEMPTS = 3
"""Runs for one content of a shard: a run fails if one of its shards does, and the others need another run."""

READ_SECONDS = 15.0
"""Time for reading files in one survey: a quarter of what Dagster gives a sensor. The rest is read next time."""

LARGE_BYTES = 8 * 2**30
"""A larger file, which takes about 10 s to read from a fast disk, is identified by its state and read by its run."""

REDECIDE = "redecide"
"""Key, which no path or URL equals, of the attempts for the last retraction in the memory."""


@dataclass(frozen=True)
class Sighting:
    """The state of a file kept from one survey to the next.

    `marks` are its last observed state; `content` identifies its content in that state, once it was read; `attempts`
    counts the runs requested for this content; `missing` counts the surveys in a row in which a shard's file was gone.
    """

    marks: str
    content: str = ""
    attempts: int = 0
    missing: int = 0


Memory = Mapping[str, Sighting]
"""Sightings by uri, only of files that differ from the ledger, so it stays small in a large corpus."""


@dataclass(frozen=True)
class Due:
    """A shard that needs a run. `token` identifies its content, the number of earlier admissions, and the attempt."""

    file: SourceFile
    role: str
    token: str


@dataclass
class Survey:
    """The result of one look at the sources.

    Attributes
    ----------
    due : list of Due
        Shards to curate, in the order in which new ones must be registered.
    vanished : list of str
        Keys of shards whose files are certainly gone, to be retracted now.
    redecide : list of str
        Shards retracted since the last decisions (`ask_for_decisions`).
    redecide_token : str
        Identifies that retraction and the attempt.
    memory : dict
        For the next survey.
    watched : int
        Shard files in the sources.
    moved : dict of list of SourceFile
        By role, files with the content of a registered shard at another address.
    unread : str
        Description of the parts of the sources that are not read.
    waiting, later, problems : list of str
        Files that are still being written or may return; the number left for the next survey; and problems for the
        user.
    """

    due: list[Due] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    redecide: list[str] = field(default_factory=list)
    redecide_token: str = ""
    memory: dict[str, Sighting] = field(default_factory=dict)
    watched: int = 0
    moved: dict[str, list[SourceFile]] = field(default_factory=dict)
    unread: str = ""
    waiting: list[str] = field(default_factory=list)
    later: int = 0
    problems: list[str] = field(default_factory=list)

    def words(self) -> str:
        """The survey in words."""
        parts = [f"{self.watched} shard files watched."]
        if self.unread:
            parts.append(f"{self.unread}.")
        if self.waiting:
            parts.append(f"Waiting for the next look: {some(self.waiting)}.")
        if self.later:
            parts.append(f"{self.later} more come in later (shards_per_run).")
        return " ".join([*parts, *self.problems])


def survey(
    workspace: Workspace,
    memory: Memory,
    in_flight: Collection[str] = (),
    idle: bool = True,
    now: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Survey:
    """Survey the watched sources.

    Parameters
    ----------
    workspace : Workspace
    memory : mapping
        The memory of the last survey.
    in_flight : collection of str
        Shards of queued and running runs, which are skipped.
    idle : bool
        Whether no run is in progress. A retraction would wait for a run, longer than a sensor may.
    now : float, optional
        Seconds since 1970.
    clock : callable
        Monotonic seconds, for the bound on reading.
    """
    look = _Look(workspace, memory, in_flight, idle, time.time() if now is None else now, clock)
    look.around()
    return look.result


class _Look:
    """One survey in progress."""

    def __init__(
        self,
        workspace: Workspace,
        memory: Memory,
        in_flight: Collection[str],
        idle: bool,
        now: float,
        clock: Callable[[], float],
    ) -> None:
        ledger = workspace.ledger
        self.workspace = workspace
        self.settings = workspace.settings
        self.memory = memory
        self.in_flight = set(in_flight)
        self.idle = idle
        self.now = now
        self.clock = clock
        self.read_until = clock() + READ_SECONDS
        self.shards = {shard.uri: shard for shard in ledger.shards()}
        self.read = ledger.completions(STAGES[0])
        self.unfinished = set(unfinished_shards(workspace))
        self.failures = ledger.failures()
        self.admitted = {a.shard: a.number for a in ledger.admissions()}
        self.unread: list[Unread] = []
        self.result = Survey()

    def around(self) -> None:
        """Look at every source, then at every file."""
        roots: list[str] = []
        files: list[tuple[SourceFile, Listed, str]] = []
        roles: dict[str, str] = {}
        # References first: a reference that precedes the shards compared with it needs no second decision.
        for role, sources in ((REFERENCE, self.settings.reference_sources), (CORPUS, self.settings.sources)):
            for listing in self._listings(sources):
                if listing.files and listing.root:
                    roots.append(listing.root)
                entries = {file.uri: file for file in listing.files}
                shards, clashes = as_shards(listing.files)
                self.result.problems += map(str, clashes)
                files += [(file, entries[file.uri], role) for file in shards if file.uri not in roles]
                for uri in entries:
                    roles.setdefault(uri, role)
        self.result.watched = len(roles)
        if self.unread:
            self.result.unread = unread_in_words(self.unread)
        self._missing(roots, roles)
        # A renamed file is a shard that is gone and one that is new. The new one waits until the other is retracted:
        # until then the ids of its records are taken.
        held = sum(s.missing > 0 for s in self.result.memory.values()) > len(self.result.vanished)
        taken = {shard.key.casefold(): uri for uri, shard in self.shards.items()}
        for file, entry, role in files:
            known = self.shards.get(file.uri)
            if known is not None:
                self._file(replace(file, key=known.key), entry, role, held)
            elif taken.setdefault(file.key.casefold(), file.uri) == file.uri:
                self._file(file, entry, role, held)
            elif self._continues(file):
                self.result.moved.setdefault(role, []).append(file)
            else:
                self.result.problems.append(
                    f"{file.uri} would be shard {file.key}, which is {taken[file.key.casefold()]}: rename the file."
                )

    def _continues(self, file: SourceFile) -> bool:
        """Whether a file is a registered shard that now lies elsewhere."""
        shard = next((shard for shard in self.shards.values() if shard.key == file.key), None)
        return shard is not None and continues(self.workspace.ledger, shard, file)

    def _listings(self, sources: Iterable[str]) -> Iterator[Listing]:
        for source in sources:
            try:
                listing = list_source(source, self.settings.follow_links)
            except SourceError as problem:
                self.result.problems.append(f"{problem} Nothing of it is taken for vanished meanwhile.")
                continue
            self.unread += listing.unread
            yield listing

    # -- files that are there -----------------------------------------------------------------------

    def _file(self, file: SourceFile, entry: Listed, role: str, held: bool) -> None:
        """Decide what to do with one file of the sources."""
        shard, seen = self.shards.get(file.uri), self.memory.get(file.uri)
        if shard is not None and shard.retracted == TAKEDOWN:
            return
        if shard is not None and shard.role != role:
            self.result.problems.append(
                f"{file.uri} is watched as {role} and registered as {shard.role}: a file has one role. Watch it as "
                "before, or put the content into a file of another name."
            )
            return
        if file.key in self.in_flight:
            self._remember(file.uri, seen)
            return
        try:
            state = self._state(file, entry, seen)
            self._present(file, role, shard, seen, state, held)
        except (OSError, DedupError) as problem:  # deleted or unreadable since it was listed
            self._remember(file.uri, seen)
            self.result.problems.append(str(problem))

    def _state(self, file: SourceFile, entry: Listed, seen: Sighting | None) -> FileState:
        """The state of a file: as listed where that is complete, otherwise as queried."""
        state = file_state(file.uri, entry.info)
        done = self.read.get(file.key)
        known = {done.stats.get("source_state") if done else None, seen.marks if seen else None}
        # A listing may have less metadata than a query for one file, which the ledger stores.
        return state if entry.info is None or state.marks in known else file_state(file.uri)

    def _present(
        self, file: SourceFile, role: str, shard: Shard | None, seen: Sighting | None, state: FileState, held: bool
    ) -> None:
        done = self.read.get(file.key)
        out = shard is None or shard.retracted is not None
        as_read = done is not None and done.stats.get("source_state") == state.marks
        finished = not out and file.key not in self.unfinished
        if as_read and finished:
            return
        sighting = seen if seen is not None and seen.marks == state.marks else Sighting(state.marks)
        sighting = replace(sighting, missing=0)
        if not as_read and (held or not self._settled(seen, state)):
            self.result.waiting.append(file.key)
            self._remember(file.uri, sighting)
            return
        if len(self.result.due) >= self.settings.shards_per_run or self.clock() > self.read_until:
            self.result.later += 1
            self._remember(file.uri, sighting)
            return
        sighting = replace(sighting, content=sighting.content or self._content(file, state, done if as_read else None))
        self._remember(file.uri, sighting)
        if finished and done is not None and done.input_version == sighting.content:
            return  # touched but not changed
        if finished and shard is not None and self.settings.changed_shards == "refuse":
            self.result.problems.append(str(changed_content_error(shard)))
            return
        self._request(file, role, sighting)

    def _settled(self, seen: Sighting | None, state: FileState) -> bool:
        """Whether a file has not been modified for a while, according to earlier surveys or its file system."""
        age = None if state.modified is None else self.now - state.modified
        if age is not None and age >= max(self.settings.watch_seconds, SETTLE_SECONDS):
            return True
        unchanged = seen is not None and seen.missing == 0 and seen.marks == state.marks
        # A modification time in the future comes from another clock and says nothing.
        return unchanged and (age is None or age < 0 or age >= SETTLE_SECONDS)

    def _content(self, file: SourceFile, state: FileState, done: Completion | None) -> str:
        if done is not None:
            return done.input_version
        if state.size is not None and state.size > LARGE_BYTES:
            return f"state {state.marks}"
        return content_fingerprint(file)

    def _request(self, file: SourceFile, role: str, sighting: Sighting) -> None:
        """Request a run, unless this content has used up its attempts."""
        failure = self.failures.get(file.key)
        if sighting.attempts >= ATTEMPTS or (sighting.attempts and failure):
            reason = failure[1] if failure else f"{sighting.attempts} runs did not finish it."
            self.result.problems.append(
                f"Shard {file.key} is not tried again until its file changes: {reason} `dedup-assets curate` without "
                "a source tries it by hand."
            )
            return
        attempt = sighting.attempts + 1
        # The same content may return after other content, or after its file was gone: then it is admitted again.
        token = f"{file.key}@{sighting.content}#{self.admitted.get(file.key, 0)}.{attempt}"
        self.result.due.append(Due(file, role, token))
        self._remember(file.uri, replace(sighting, attempts=attempt))

    def _remember(self, uri: str, sighting: Sighting | None) -> None:
        if sighting is not None:
            self.result.memory[uri] = sighting

    # -- files that are gone ------------------------------------------------------------------------

    def _missing(self, roots: Collection[str], listed: Collection[str]) -> None:
        """Shards of the watched folders whose files are gone.

        A folder without any shard file was emptied or is not mounted, and proves nothing.
        """
        if self.settings.vanished_shards == "keep":
            return
        for uri, shard in self.shards.items():
            if shard.retracted is not None or shard.key in self.in_flight or uri in listed:
                continue
            if not any(uri.startswith(root.rstrip("/") + "/") for root in roots) or not self._is_gone(uri):
                continue
            seen = self.memory.get(uri, Sighting(""))
            if seen.missing and self.idle:
                self.result.vanished.append(shard.key)
            else:
                self.result.waiting.append(f"{shard.key} (its file is gone)")
            self._remember(uri, replace(seen, missing=seen.missing + 1))

    def _is_gone(self, uri: str) -> bool:
        try:
            file_state(uri)
        except FileNotFoundError:
            return True
        except OSError as problem:
            self.result.problems.append(f"{uri} cannot be checked: {problem}.")
        return False


# -- decisions ---------------------------------------------------------------------------------------


def ask_for_decisions(workspace: Workspace, memory: Memory, found: Survey) -> None:
    """Request new decisions in a survey if a retraction is not yet part of any generation and no shard is due: the run
    of a due shard would decide again anyway."""
    ledger = workspace.ledger
    generation, last = ledger.generation(), ledger.last_retraction()
    if found.due or generation is None or generation.retractions >= last:
        return
    seen = memory.get(REDECIDE)
    attempts = seen.attempts if seen is not None and seen.marks == str(last) else 0
    if attempts >= ATTEMPTS:
        found.memory[REDECIDE] = Sighting(str(last), attempts=attempts)
        found.problems.append(
            f"Something was retracted, and {attempts} runs did not decide again: look at their errors, and run "
            "`dedup-assets curate` without a source."
        )
        return
    found.memory[REDECIDE] = Sighting(str(last), attempts=attempts + 1)
    since = {r.shard for r in ledger.retractions() if r.number > generation.retractions and r.admission is not None}
    found.redecide = decidable(ledger, since) or sorted(ledger.completions(DECIDING))
    found.redecide_token = f"retraction {last}.{attempts + 1}"


# -- memory ------------------------------------------------------------------------------------------


def write_memory(memory: Memory) -> str:
    """The memory as text for a sensor's cursor."""
    seen = {uri: [s.marks, s.content, s.attempts, s.missing] for uri, s in sorted(memory.items())}
    return json.dumps({"version": 1, "seen": seen})


def read_memory(text: str | None) -> dict[str, Sighting]:
    """The memory from text; empty where there is none or its format is unknown, since it only saves work."""
    try:
        value = json.loads(text or "{}")
        if value.get("version") != 1:
            return {}
        return {str(uri): Sighting(str(m), str(c), int(a), int(g)) for uri, (m, c, a, g) in value["seen"].items()}
    except (ValueError, TypeError, AttributeError, KeyError):
        return {}
