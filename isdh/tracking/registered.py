"""A registered model as it was found, and the moves of its aliases: logged, then made.

A process killed between the two leaves a line whose move the next one makes without another line.
A line is done with once it stands in the version's description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from isdh.artifacts import Cell, Workspace
from isdh.errors import InputError, unknown
from isdh.tracking import promotions, registration, versions
from isdh.tracking.promotions import Line
from isdh.tracking.versions import ALIAS, CHALLENGER, version_of, weights_of

LONGEST = 5000  # characters of a description
SAME = ("action", "from", "version", "weights_sha256", "protocol")
WITHDRAWN = "isdh.withdrawn"  # a tag


@dataclass(frozen=True)
class Decision:
    """What became, or would become, of the aliases of one registered model.

    Attributes:
        model: the registered model's name.
        moves: the alias `champion` moves to the candidate.
        reason: why, with the numbers.
        cell: the candidate; None if no method has enough seeds.
        mean: its mean over seeds; None: it was not compared.
        seeds: how many.
        version: its version; None if it is not registered (a dry run). The challenger, unless it
            is or becomes the champion.
        champion: the version that held the alias before; None: there was none.
    """

    model: str
    moves: bool
    reason: str
    cell: Cell | None = None
    mean: float | None = None
    seeds: int = 0
    version: str | None = None
    champion: str | None = None


class Registered:
    """One registered model.

    Args:
        client: of the tracking server.
        workspace: whose promotion log.
        name: of the registered model, which may be still to come.
        at: where MLflow lies, if it is not the workspace's own: what the log calls its `target`.

    Attributes:
        versions: by the digest of their weights.
        holder: the version that is champion, or None.
        challenger: the version that is challenger, or None.
        log: its lines of promotions.jsonl.
        withdrawn: digests of the weights that no promotion by the rule may choose.
        notes: what was mended.

    Raises:
        InputError: the name is taken by a model of another shape.
    """

    def __init__(
        self, client: MlflowClient, workspace: Workspace, name: str, *, at: str | None = None
    ) -> None:
        self.client = client
        self.workspace = workspace
        self.name = name
        self.at = at
        self.versions = versions.by_weights(client, name)
        self.holder = version_of(client, name, ALIAS)
        self.challenger = version_of(client, name, CHALLENGER)
        if self.holder:  # of equal ones, from two machines in the same moment
            self.versions[weights_of(self.holder)] = self.holder
        self.log = promotions.lines(workspace, name, at)
        tagged = {key for key, found in self.versions.items() if WITHDRAWN in found.tags}
        self.withdrawn = promotions.withdrawn(self.log) | tagged
        self.notes: list[str] = []

    @property
    def champion(self) -> str | None:
        """The number of the version that is champion."""
        return _number(self.holder)

    def version(self, number: str) -> ModelVersion:
        """The version of a number.

        Raises:
            InputError: there is none; the known ones are named.
        """
        known = {str(found.version): found for found in self.versions.values()}
        if number not in known:
            raise unknown(f"version of {self.name}", number, known)
        return known[number]

    def require_not_withdrawn(self, version: ModelVersion) -> None:
        """Refuse a version that was withdrawn.

        Raises:
            InputError: it was.
        """
        if weights_of(version) in self.withdrawn:
            raise InputError(
                f"model {self.name!r}: version {version.version} was withdrawn; --withdrawn takes "
                "it all the same"
            )

    def before(self) -> ModelVersion:
        """The last version that was champion before this one and is not withdrawn.

        Raises:
            InputError: there is none.
        """
        now = weights_of(self.holder) if self.holder else None
        for line in reversed(self.log):
            weights = line.get("weights_sha256", "")
            usable = weights in self.versions and weights not in self.withdrawn | {now}
            if line["action"] in promotions.MOVES and usable:
                return self.versions[weights]
        raise InputError(
            f"model {self.name!r}: no champion before version {self.champion} to go back to; "
            "`isdh promote --version` takes any"
        )

    def append(self, line: Line) -> None:
        """Log what is about to be done, unless a process that died has logged the same."""
        whole = {"model": self.name, **({"target": self.at} if self.at else {}), **line}
        last = self.log[-1] if self.log else {}
        if any(last.get(key) != whole.get(key) for key in SAME) or self._is_done(last):
            self.log.append(promotions.append(self.workspace, whole))

    def _is_done(self, line: Line) -> bool:
        found = self.versions.get(line["weights_sha256"])
        return found is not None and line["when"] in (found.description or "")

    def mend(self) -> None:
        """Bring the registry up to the log, and the files in use to what was registered.

        Raises:
            InputError: these are lost or altered, and the model they were made of is not here.
        """
        moves = [line for line in self.log if line["action"] in promotions.MOVES]
        last = moves[-1] if moves else {}
        target = self.versions.get(last.get("weights_sha256", ""))
        if self.holder and target and last.get("withdrawn") == weights_of(self.holder):
            self._make_champion(target, withdrawn=self.holder)  # was logged, and no more
        for found in (self.holder, self.challenger):
            if found:
                self.require_intact(found)
                self.describe(found)

    def require_intact(self, version: ModelVersion) -> None:
        """Refuse a version whose files are not as registered, unless they can be written again.

        Raises:
            InputError: lost or altered, and the model they were made from is not here.
        """
        try:
            with registration.opened(self.client, version):
                return
        except InputError as error:
            if not registration.is_here(self.workspace, version):
                raise
            self.append(
                {
                    "action": "mend",
                    "version": _number(version),
                    "weights_sha256": weights_of(version),
                    "why": f"written again from models/{version.tags['isdh.cell']}: {error}",
                }
            )
            registration.write_again(self.client, self.workspace, version)
            self.describe(version)
            self.notes.append(f"version {version.version} was not as registered, written again")

    def promote(self, version: ModelVersion, line: Line) -> None:
        """Make a version the champion.

        Args:
            version: its files are verified first.
            line: what to log of it, with `action` and `why`.

        Raises:
            InputError: its files are altered, or somebody else moved the alias meanwhile.
        """
        self.require_intact(version)
        self.move(version, line)

    def move(self, version: ModelVersion, line: Line) -> None:
        """Make a version the champion whose files are known to be intact.

        Raises:
            InputError: somebody else moved the alias meanwhile.
        """
        now = _number(version_of(self.client, self.name, ALIAS))
        if now != self.champion:
            raise InputError(
                f"model {self.name!r}: somebody else moved the champion from version "
                f"{self.champion} to {now} meanwhile, so it is left there; run the command again "
                "to decide anew"
            )
        withdrawn = self.holder if line["action"] == "rollback" else None
        more = {"withdrawn": weights_of(withdrawn)} if withdrawn else {}
        self.append({"from": self.champion, **line, **more})
        self._make_champion(version, withdrawn=withdrawn)

    def _make_champion(self, version: ModelVersion, *, withdrawn: ModelVersion | None) -> None:
        if withdrawn:
            self.client.set_model_version_tag(self.name, withdrawn.version, WITHDRAWN, "true")
        if WITHDRAWN in version.tags:
            self.client.delete_model_version_tag(self.name, version.version, WITHDRAWN)
        self.client.set_registered_model_alias(self.name, ALIAS, version.version)
        self.holder = version
        if _number(self.challenger) == _number(version):
            self.drop_challenger()
        for found in (version, withdrawn):
            if found:
                self.describe(found)

    def nominate(self, version: ModelVersion, line: Line) -> None:
        """Make a version the challenger, if it is not."""
        if _number(self.challenger) != _number(version):
            self.append(line)
            self.client.set_registered_model_alias(self.name, CHALLENGER, version.version)
        self.describe(version)

    def drop_challenger(self) -> None:
        """Take the alias `challenger` away, if there is one."""
        if self.challenger:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)
            self.challenger = None

    def note(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Write a version's tags where they differ."""
        for key, value in tags.items():
            if version.tags.get(key) != value:
                self.client.set_model_version_tag(self.name, version.version, key, value)

    def describe(self, version: ModelVersion) -> None:
        """Put what was logged of a version and is not told there yet on top of its description."""
        text = version.description or ""
        lines = reversed(promotions.about(self.log, weights_of(version)))
        fresh = takewhile(lambda line: str(line.get("when")) not in text, lines)
        if told := [promotions.told(line) for line in fresh]:
            text = "\n\n".join([*told, *([text] if text else [])])[:LONGEST]
            self.client.update_model_version(self.name, version.version, text)


def _number(version: ModelVersion | None) -> str | None:
    return str(version.version) if version else None
