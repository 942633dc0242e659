"""ISDH_NOTIFY -> rules of Prefect by which somebody is told how scheduled runs ended.

It is an address, to which JSON `{"text": ...}` is posted, as Slack and Mattermost read it, or
`<type>/<name>` of a notification block that was made on Prefect's page, such as
`discord-webhook/team`. Told are a promotion, a failure and a crash.
"""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

from flows.services import ask
from isdh.errors import InputError

VARIABLE = "ISDH_NOTIFY"
PROMOTED = "promoted "  # how the message of a run's state starts where a champion moved
SCHEDULED = ["nightly", "on-new-data"]  # deployments of prefect.yaml
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds
WEBHOOK, BLOCK = "custom-webhook", "isdh"
RULES: dict[str, dict[str, Any]] = {  # name -> which events
    "tell of a champion that moved": {
        "match": {
            "prefect.resource.id": "prefect.flow-run.*",
            "prefect.state-message": f"{PROMOTED}*",
        },
        "expect": ["prefect.flow-run.Completed"],
    },
    "tell of a run that failed": {
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "expect": [f"prefect.flow-run.{name}" for name in ("Failed", "TimedOut", "Crashed")],
    },
}


def install(api: str) -> None:
    """Put the rules in force where the environment says whom to tell; those that are there stay.

    Raises:
        InputError: the environment names no address and no block that is there.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    block = _webhook(api, wanted) if wanted.startswith(("http://", "https://")) else None
    block = block or _named(api, wanted)
    for name, events in RULES.items():
        query = {"automations": {"name": {"any_": [name]}}}
        found = _ask(f"{api}/automations/filter", query)
        if not found:
            _ask(f"{api}/automations/", rule(name, events, block))
        elif block not in str(found[0]["actions"]):
            _ask(f"{api}/automations/{found[0]['id']}", rule(name, events, block), method="PUT")


def rule(name: str, events: dict[str, Any], block: str) -> dict[str, Any]:
    """A rule as Prefect's API takes it."""
    related = {"prefect.resource.role": "deployment", "prefect.resource.name": SCHEDULED}
    return {
        "name": name,
        "description": f"{VARIABLE} says whom.",
        "enabled": True,
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "match_related": related,
            "threshold": 1,
            "within": 0,
            **events,
        },
        "actions": [
            {
                "type": "send-notification",
                "block_document_id": block,
                "subject": "{{ flow_run.state.name }}: {{ flow_run.name }}",
                "body": "{{ flow_run.state.message }}\n{{ flow_run | ui_url }}",
            }
        ],
    }


def _webhook(api: str, url: str) -> str:
    """A block of our own that posts to an address, made or brought up to date; its id."""
    data = {"name": BLOCK, "url": url, "json_data": {"text": "{{subject}}\n{{body}}"}}
    if found := _block(api, WEBHOOK, BLOCK):
        content = {"data": data, "merge_existing_data": False}
        _ask(f"{api}/block_documents/{found}", content, method="PATCH")
        return found
    kind = _ask(f"{api}/block_types/slug/{WEBHOOK}")["id"]
    query = {"block_schemas": {"block_type_id": {"any_": [kind]}}}
    schema = _ask(f"{api}/block_schemas/filter", query)[0]["id"]
    content = {"name": BLOCK, "data": data, "block_type_id": kind, "block_schema_id": schema}
    return str(_ask(f"{api}/block_documents/", content)["id"])


def _named(api: str, words: str) -> str:
    kind, _, name = words.partition("/")
    if found := name and _block(api, kind, name):
        return found
    raise InputError(
        f"{VARIABLE}={words}: no such notification block; give an address (https://...), or "
        "<type>/<name> of a block that is on Prefect's page, such as slack-webhook/team"
    )


def _block(api: str, kind: str, name: str) -> str | None:
    """The id of a block; None: not there."""
    try:
        where = f"{api}/block_types/slug/{quote(kind)}/block_documents/name/{quote(name)}"
        return str(_ask(where)["id"])
    except HTTPError as error:
        if error.code == 404:
            return None
        raise


def _ask(url: str, content: Any = None, *, method: str | None = None) -> Any:
    """Ask Prefect's API, again where it says 503: that its database is busy, and nothing done."""
    for seconds in WAITS:
        try:
            return ask(url, content, method=method)
        except HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(seconds)
    return ask(url, content, method=method)
