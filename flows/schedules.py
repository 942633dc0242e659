"""prefect.yaml -> what is wrong with its deployments, told before any of them is deployed.

Prefect would find some of it itself, with half of the file deployed, and pass over the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import yaml

from isdh.errors import InputError, unknown

KINDS = ("cron", "interval", "rrule")
KEYS = (*KINDS, "timezone", "day_or", "anchor_date", "active", "parameters", "slug", "replaces")
MATRIX = ("datasets", "methods", "bits", "seeds")  # parameters of `sweep`
FORMS = {
    "cron": 'five fields: minute, hour, day, month, day of the week, e.g. "0 3 * * *"',
    "interval": "seconds between runs, more than 0, e.g. 300",
    "rrule": "an iCalendar rule, e.g. FREQ=DAILY;BYHOUR=3",
}
ZONE = "a name of the IANA data base, e.g. Europe/Berlin or UTC"


def check(path: Path, *, name: str) -> None:
    """Refuse a file by which a deployment would not run, or otherwise than it says.

    Args:
        path: of prefect.yaml.
        name: of a deployment that has to be there.

    Raises:
        InputError: which deployment, value, rule and remedy.
    """
    found = _deployments(path)
    if name not in (names := [str(each.get("name")) for each in found]):
        raise InputError(f"{path}: {unknown('deployment', name, names)}; `make up` needs that one")
    for each in found:
        where = f"{path}: deployment {each.get('name')!r}"
        schedules = each.get("schedules") or []
        for schedule in schedules:
            _check_schedule(schedule, where)
        for parameters in (each.get("parameters"), *(s.get("parameters") for s in schedules)):
            _check_matrix(parameters or {}, where)


def _deployments(path: Path) -> list[Mapping[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.absolute()}: no such file; run from the project's root") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {error}") from None
    found = content.get("deployments") if isinstance(content, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise InputError(f"{path}: no list `deployments` of mappings; `git diff {path}` tells more")
    return found


def _check_schedule(schedule: Any, where: str) -> None:
    if not isinstance(schedule, Mapping) or sum(kind in schedule for kind in KINDS) != 1:
        raise InputError(f"{where}: schedule {schedule!r}: want exactly one of {', '.join(KINDS)}")
    for key in schedule:
        if key not in KEYS:
            raise InputError(f"{where}: schedule: {unknown('key', str(key), KEYS)}")
    if "{{" in str(schedule):  # Prefect fills it in when it deploys
        return
    zone = schedule.get("timezone")
    if zone is not None and not _is_valid("cron", "0 3 * * *", timezone=zone):
        nearest = get_close_matches(str(zone), available_timezones(), n=1)
        hint = f", did you mean {nearest[0]!r}?" if nearest else ";"
        raise InputError(f"{where}: timezone={zone!r}: no such time zone{hint} want {ZONE}")
    for kind in KINDS:
        if kind in schedule and not _is_valid(kind, schedule[kind]):
            raise InputError(f"{where}: {kind}={schedule[kind]!r}: no {kind}; want {FORMS[kind]}")


def _is_valid(kind: str, value: Any, **more: Any) -> bool:
    """Whether Prefect takes a value for when to run."""
    from prefect.client.schemas import schedules

    kinds: dict[str, Any] = {
        "cron": schedules.CronSchedule,
        "interval": schedules.IntervalSchedule,
        "rrule": schedules.RRuleSchedule,
    }
    try:
        kinds[kind].model_validate({kind: value, **more})
    except (ValueError, TypeError):
        return False
    return True


def _check_matrix(parameters: Mapping[str, Any], where: str) -> None:
    """Refuse parameters that a run would refuse: an unknown dataset, an empty list."""
    named = {key: parameters[key] for key in MATRIX if parameters.get(key) is not None}
    if named:
        from flows import sweep

        try:
            sweep.asked(**named)
        except InputError as error:
            raise InputError(f"{where}: parameters: {error}") from None
