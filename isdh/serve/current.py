"""What is served now: one reference, replaced as a whole when the registry or files have changed.

Who answers takes the reference once and keeps to it, so that no answer mixes two models and none is
dropped. A pair that cannot be loaded is refused with a reason, and the one before goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from isdh import search, tracking
from isdh.artifacts import Workspace
from isdh.errors import InputError
from isdh.params import Params
from isdh.search import Pair, Source
from isdh.tracking import InUse

CHAMPION, CHALLENGER = "champion", "challenger"
AGAIN = 30.0  # seconds until a refused pair is tried once more, if nothing about it has changed
log = logging.getLogger("isdh.serve")


@dataclass(frozen=True)
class Refused:
    """A version that holds an alias and is not served.

    Attributes:
        version: which; None: nothing holds the alias any more.
        why: what is amiss.
        mark: of its files.
        since: when it was tried last, by the monotonic clock.
    """

    version: InUse | None
    why: str
    mark: search.Mark = ()
    since: float = field(default_factory=monotonic)


@dataclass(frozen=True, eq=False)
class Serving:
    """What answers are given from.

    Attributes:
        pairs: by alias; of the champion there is one.
        refused: by alias.
        fault: why the registry could not be asked, if it could not.
    """

    pairs: Mapping[str, Pair]
    refused: Mapping[str, Refused] = field(default_factory=dict)
    fault: str = ""


class Current:
    """The champion and the challenger of a dataset and code length, and a thread that watches.

    Args:
        workspace: where codes lie.
        params: the datasets.
        dataset: whose collection.
        bits: the code length.
        on_swap: called when a pair has taken another one's place.

    Raises:
        InputError: no champion, or one that cannot be served.
    """

    def __init__(
        self,
        workspace: Workspace,
        params: Params,
        dataset: str,
        bits: int,
        *,
        on_swap: Callable[[Serving], None] = lambda serving: None,
    ) -> None:
        self.workspace = workspace
        self.params = params
        self.dataset = dataset
        self.bits = bits
        self.on_swap = on_swap
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        found = tracking.versions_by_alias(workspace, dataset, bits)
        if CHAMPION not in found:
            tracking.version_in_use(workspace, dataset, bits)  # raises, in its own words
        champion = search.load(workspace, params, _source(found[CHAMPION]))
        self.serving = Serving({CHAMPION: champion})
        self.refresh()

    def refresh(self) -> None:
        """Ask the registry; load what is new, and let it take the place of what is served."""
        before = self.serving
        try:
            found = tracking.versions_by_alias(self.workspace, self.dataset, self.bits)
        except InputError as error:
            self._replace(Serving(before.pairs, before.refused, fault=str(error)))
            return
        pairs: dict[str, Pair] = {}
        refused: dict[str, Refused] = {}
        for alias in (CHAMPION, CHALLENGER):
            if version := found.get(alias):
                outcome = self._pair(alias, version)
                if isinstance(outcome, Pair):
                    pairs[alias] = outcome
                    continue
                refused[alias] = outcome
            elif alias == CHAMPION:
                refused[alias] = Refused(None, "no version is champion any more")
            if alias == CHAMPION:
                pairs[alias] = before.pairs[alias]
        self._replace(Serving(pairs, refused))

    def _pair(self, alias: str, version: InUse) -> Pair | Refused:
        """The pair of a version: one that is loaded, or else a new one."""
        source = _source(version)
        now = search.mark(self.workspace, source)
        for held in self.serving.pairs.values():
            if held.mark == now:
                return held
        last = self.serving.refused.get(alias)
        if last and last.mark == now and monotonic() - last.since < AGAIN:
            return last
        try:
            return search.load(self.workspace, self.params, source)
        except Exception as error:  # damaged files raise whatever they lead to
            log.log(
                logging.WARNING,
                "%s version %s is refused: %s",
                version.model,
                version.number,
                error,
                exc_info=not isinstance(error, InputError),
            )
            why = str(error) if isinstance(error, InputError) else "its files are damaged; see log"
            return Refused(version, why, now)

    def _replace(self, serving: Serving) -> None:
        before, self.serving = self.serving, serving
        swapped = {
            alias: each
            for alias, each in serving.pairs.items()
            if before.pairs.get(alias) is not each
        }
        for alias, each in swapped.items():
            log.info(
                "%s: %s version %s, %d pictures",
                alias,
                each.version.model,
                each.version.number,
                len(each.collection.images),
            )
        if swapped or before.pairs.keys() != serving.pairs.keys():
            self.on_swap(serving)

    def watch(self, seconds: float) -> None:
        """Start to refresh every so many seconds, in a thread."""

        def keep() -> None:
            while not self._end.wait(seconds):
                try:
                    self.refresh()
                except Exception:  # whatever it is, the service goes on
                    log.exception("the registry could not be looked at")

        self._thread = threading.Thread(target=keep, name="isdh-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._end.set()
        if self._thread:
            self._thread.join(timeout=5)


def _source(version: InUse) -> Source:
    return Source(version.cell, version.weights_sha256, version)
