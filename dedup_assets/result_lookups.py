"""The look-ups of a result in Python. The command line prints what they return.

Each loads its data when it is called, so a result is shown without a model or a table of vectors.
"""

from __future__ import annotations

from pathlib import Path

from dedup_assets.arguments import as_text, at_least_one
from dedup_assets.errors import SettingsError
from dedup_assets.lookups.answers import Explanation, Groups, History, Hits, Pairs, Ranked
from dedup_assets.storage.workspace import Workspace


class ResultLookups:
    """Look-ups in the current state of a workspace."""

    workspace: Path

    def explain(self, record: str | int) -> Explanation:
        """Why a record was kept, removed or quarantined, and its origin.

        Parameters
        ----------
        record : str or int
            An id, or SHARD:ROW.

        Returns
        -------
        Explanation
            A dict; its own help lists the keys.

        Raises
        ------
        WorkspaceError
            There is no such record.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").explain("some-id")["decision"]
        """
        from dedup_assets.lookups.explain import explain

        return explain(self._space(), as_text("record", record))

    def pairs_around(self, similarity: float | None = None, count: int = 20) -> Pairs:
        """The stored matches closest to a similarity, for judging a threshold.

        Parameters
        ----------
        similarity : float, optional
            A cosine above 0 and at most 1; the threshold if not given.
        count : int
            How many at most.

        Returns
        -------
        Pairs
            A table, most similar first: `similarity`, and `id_a, shard_a, text_a`, `id_b, shard_b, text_b`.

        Examples
        --------
        >>> import dedup_assets as da
        >>> for pair in da.open_curation("ws").pairs_around(0.92, 5):
        ...     print(pair["similarity"], pair["text_a"], pair["text_b"])
        """
        from dedup_assets.lookups.near import pairs_around

        return pairs_around(self._space(), similarity, at_least_one("count", count))

    def matches(self, *, record: str | int | None = None, group: str | None = None, count: int = 100) -> Pairs:
        """The matches of one record, or among the texts of one group, including those in dense cells.

        Parameters
        ----------
        record : str or int, optional
            An id, or SHARD:ROW.
        group : str, optional
            A `group_id` of `removed`.
        count : int
            Largest number of matches, most similar first.

        Returns
        -------
        Pairs
            A table like that of `pairs_around`.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").matches(record="some-id").to_pylist()
        """
        from dedup_assets.lookups.unlisted import matches_of_group, matches_of_record

        if (record is None) == (group is None):
            raise SettingsError("matches of what? Give record= or group=, one of them.")
        count = at_least_one("count", count)
        if record is not None:
            return matches_of_record(self._space(), as_text("record", record), count)
        return matches_of_group(self._space(), as_text("group", group), count)

    def search(self, text: str, count: int = 10) -> Hits:
        """The records of the corpus most similar to a text, kept and removed.

        Parameters
        ----------
        text : str
            The model of the workspace embeds it.
        count : int
            How many at most.

        Returns
        -------
        Hits
            A table, most similar first: `id, shard, similarity, decision, text`.

        Raises
        ------
        SettingsError
            The model knows too little of the text, or the vectors came with the data.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").search("how do I reset my password", 5)["id"].to_pylist()
        """
        from dedup_assets.lookups.near import search

        return search(self._space(), as_text("text", text), at_least_one("count", count))

    def groups(self, count: int | None = 10, members: int | None = 5) -> Groups:
        """Groups of duplicates: each keeper with the records that were removed for it, the largest group first.

        Parameters
        ----------
        count : int or None
            How many groups at most; None: all.
        members : int or None
            Removed records of each group listed with their texts, the least similar to the keeper; None: all.

        Returns
        -------
        Groups
            A table: `group_id, size, keeper_id, keeper_shard, keeper_text`, and `members`, a list of
            `id, shard, row, kind, similarity, text`.

        Examples
        --------
        >>> import dedup_assets as da
        >>> for group in da.open_curation("ws").groups(count=3):
        ...     print(group["size"], group["keeper_id"], [member["id"] for member in group["members"]])
        """
        from dedup_assets.lookups.groups import duplicate_groups

        return duplicate_groups(
            self._space(),
            None if count is None else at_least_one("count", count),
            None if members is None else at_least_one("members", members),
        )

    def outliers(self, count: int = 20, *, fraction: float | None = None, progress: bool = True) -> Ranked:
        """The kept records that are least like all others.

        The score of a record is the mean similarity of its text to the 100 kept texts nearest to it (Angiulli and
        Pizzuti 2002, with distances), over every pair: `outliers` in memory has the same definition and the same code.
        Time grows with the square of the number of texts. Memory is about 1 KB a text, and 150 MB a core.

        Parameters
        ----------
        count : int
            How many at most.
        fraction : float, optional
            In its place a share of the kept records, from 0 to 1, rounded up.
        progress : bool
            Show progress in a notebook, or on standard error where that is a terminal; False: show nothing.

        Returns
        -------
        Ranked
            A table, the lowest score first: `score, id, shard, row, text`. Of equal scores the later record comes
            first, by the admission of its shard, then by row. `.save(path)` writes the records themselves.

        Raises
        ------
        DedupError
            Nothing is decided or kept, or the workspace was curated without a model.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").outliers(5)["text"].to_pylist()
        """
        from dedup_assets.in_memory.matching import checked_share
        from dedup_assets.in_memory.progress import shown_stages
        from dedup_assets.lookups.typical import outliers

        count = at_least_one("count", count)
        share = None if fraction is None else checked_share("fraction", fraction)
        with shown_stages(progress) as stages, stages.stage("neighbours") as advance:
            return outliers(self._space(), count, share, advance)

    def sample(self, count: int = 100, *, diversity: float = 0.5, progress: bool = True) -> Ranked:
        """Kept records that stand for the rest: typical ones that differ from one another.

        Of the texts with the best scores (see `outliers`), 10 for each that is wanted and 1,000 at least, one after the
        other is chosen by maximal marginal relevance (Carbonell and Goldstein 1998), as `representatives` does in
        memory: the one with the largest ``(1 - diversity)·score - diversity·(largest similarity to those chosen)``, of
        equal ones the first by the admission of its shard, then by row.

        Parameters
        ----------
        count : int
            How many; fewer are given where fewer distinct texts are kept.
        diversity : float
            From 0, the most typical ones, to 1, those that differ most.
        progress : bool
            As in `outliers`.

        Returns
        -------
        Ranked
            A table in the order of choice: `score, id, shard, row, text`. `.save(path)` writes the records themselves.

        Raises
        ------
        DedupError
            As in `outliers`.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").sample(1000, diversity=0.5).save("sample.parquet")
        """
        from dedup_assets.in_memory.matching import checked_share
        from dedup_assets.in_memory.progress import shown_stages
        from dedup_assets.lookups.typical import sample

        count, diversity = at_least_one("count", count), checked_share("diversity", diversity)
        with shown_stages(progress) as stages, stages.stage("neighbours") as advance:
            return sample(self._space(), count, diversity, advance)

    def history(self, shard: str) -> History:
        """The events of a shard, with their runs: read, embedded, admitted, decided, published, retracted.

        Parameters
        ----------
        shard : str
            Its key, as in the names of the published files.

        Returns
        -------
        History
            A dict; its own help lists the keys.

        Raises
        ------
        WorkspaceError
            There is no such shard.

        Examples
        --------
        >>> import dedup_assets as da
        >>> [event["event"] for event in da.open_curation("ws").history("week-07")["events"]]
        """
        from dedup_assets.lookups.history import shard_history

        return shard_history(self._space(), as_text("shard", shard))

    def report(self, path: str | Path | None = None) -> Path:
        """Write the curation as one HTML file that opens without a server. The same workspace gives the same bytes.

        Parameters
        ----------
        path : str or Path, optional
            The file to write; `report.html` in the workspace if not given.

        Returns
        -------
        Path
            The file.

        Examples
        --------
        >>> import dedup_assets as da
        >>> da.open_curation("ws").report("curation.html")
        """
        from dedup_assets.automation.instance import recorded_checks
        from dedup_assets.report.page import report_page
        from dedup_assets.storage.publish import publish_text

        space = self._space()
        file = Path(path).expanduser().absolute() if path else space.report
        publish_text(file, report_page(space, recorded_checks(space)))
        return file

    def _space(self) -> Workspace:
        return Workspace.open(self.workspace)
