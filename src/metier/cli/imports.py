"""`metier import`: take over what another gateway is configured to do."""

from __future__ import annotations

import getpass
import json
import math
import pathlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click
import yaml
from rich.markup import escape

from metier.app import App
from metier.cli import preparation
from metier.cli.litellm import Migration, translate
from metier.cli.terminal import Terminal, as_json_option, run, without_platform
from metier.errors import Conflict, Invalid, Mistaken, Refused
from metier.policy.keys import Scopes
from metier.policy.limits import UNITS, Limit, LimitPeriod, Measure
from metier.settings import Settings

__all__ = ["command"]

_RATES: tuple[tuple[str, Measure, LimitPeriod], ...] = (
    ("rpm_limit", "requests", "minute"),
    ("tpm_limit", "tokens", "minute"),
    ("max_parallel_requests", "concurrency", "now"),
)
_PERIODS: dict[str | None, LimitPeriod] = {
    None: "total", "1d": "day", "24h": "day", "daily": "day", "30d": "month", "1mo": "month", "monthly": "month",
}  # fmt: skip
_NO_BOUND = 1e9
"""What nobody spends: written where a budget means none."""


@click.group()
def command() -> None:
    """Take over the configuration of another gateway.

    Nothing is changed unless you ask: the result is shown, with every line that could not be brought over.
    """


@command.command(name="litellm")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--output", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="Write metier.yaml there.")
@click.option("--force", is_flag=True, help="Replace the output when it exists; the old file is kept as .bak.")
@as_json_option
def _litellm(file: pathlib.Path, output: pathlib.Path | None, force: bool, as_json: bool) -> None:
    """Map a LiteLLM config.yaml to the sections of metier.yaml.

    Models, deployments, prices, weights, limits, fallbacks and aliases are mapped. Every other entry is listed with its
    line and what replaces it. Secrets written in clear are not copied.

    Example: metier import litellm config.yaml --output metier.yaml
    """

    async def work(_: Settings, terminal: Terminal) -> None:
        migration = _read(file)
        text = yaml.safe_dump(migration.config, sort_keys=False, allow_unicode=True)
        if output is not None:
            _write(output, text, force)
        written = None if output is None else str(output)
        terminal.data({"config": migration.config, "notes": migration.notes, "written": written})
        if output is None:
            terminal.say(escape(text))
        terminal.table(
            ["line", "entry", "what", "why, and what to do"],
            [[str(note.line or "-"), note.path, note.kind, note.text] for note in migration.notes],
        )
        terminal.say(
            f"{migration.deployments} of {migration.read} deployments of {file.name} mapped, as "
            f"{len(migration.config['models'])} models; {len(migration.notes)} entries to look at."
        )
        if output is not None:
            terminal.say(f"Written to {output}. See what it gives: METIER_CONFIG={output} metier models list")

    without_platform(work, as_json=as_json)


@command.command(name="litellm-keys")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--system", required=True, help="Id or name of the registered system the new keys are for.")
@click.option("--project", default="default", show_default=True, help="Project that pays for the new keys.")
@click.option("--apply", is_flag=True, help="Really issue the keys; without it they are only listed.")
@click.option("--without-budget", is_flag=True, help="Bring keys whose budget has no counterpart too, without it.")
@as_json_option
def _litellm_keys(
    file: pathlib.Path, system: str, project: str, apply: bool, without_budget: bool, as_json: bool
) -> None:
    """Issue a key of ours for each key in the JSON of LiteLLM's /key/list?return_full_object=true.

    Only the digest of a key is known over there, so none can be copied: new ones are issued and shown this once.
    Models, expiry, rates, concurrency and budgets per day or month are kept. Keys that may do nothing there, or
    whose budget has another period, such as a week, are left behind, and named.

    Example: metier import litellm-keys keys.json --system support-reply --apply
    """

    async def work(app: App, terminal: Terminal) -> None:
        owner, use = await app.keys.project(project), await preparation.system_id(app, system)
        found, behind = _wanted(file, without_budget)
        for key in found:
            unknown = sorted({*(key["models"] or ())} - {*app.catalog.names()})
            key["left_out"] += [f"no model {name!r} here" for name in unknown]
            if apply:
                await _issue(app, key, owner.id, use)
        terminal.data({"keys": found, "left_behind": behind, "applied": apply})
        terminal.table(
            ["key there", "models", "until", "limits", "key here"],
            [
                [
                    key["name"], "all" if key["models"] is None else ", ".join(key["models"]),
                    str(key["expires_at"] or "for ever"), "; ".join([*_told(key["limits"]), *key["left_out"]]),
                    key.get("secret", "to be issued with --apply"),
                ]
                for key in found
            ],
        )  # fmt: skip
        for one in behind:
            terminal.say(f"Left behind: {escape(one['name'])}, {one['why']}.")
        if apply:
            terminal.say("Copy them now: they are kept nowhere and cannot be shown again.")

    run(work, as_json=as_json)


def _read(file: pathlib.Path) -> Migration:
    try:
        return translate(file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise Invalid(f"{file} is not UTF-8 (byte {error.start}): save it as UTF-8") from error


def _write(output: pathlib.Path, text: str, force: bool) -> None:
    if output.exists() and not force:
        raise Conflict(f"{output} exists: give another --output, or --force to replace it (the old one becomes .bak)")
    if output.exists():
        output.replace(output.with_name(output.name + ".bak"))
    output.write_text(text, encoding="utf-8")


async def _issue(app: App, key: dict[str, Any], project: str, system: str) -> None:
    """Issue one key with its limits; what cannot be done is noted beside it, so that no secret is lost on the way."""
    scopes, by = Scopes(None if key["models"] is None else frozenset(key["models"])), getpass.getuser()
    try:
        issued = await app.keys.issue(key["name"], project, system, by, scopes=scopes, expires_at=key["expires_at"])
    except (Mistaken, Refused) as error:
        key["left_out"].append(f"not issued: {error.message}")
        return
    key["secret"] = issued.secret
    for measure, period, amount in key["limits"]:
        try:
            await app.admission.limits.set(Limit("", "key", issued.key.id, measure, period, amount), by)
        except (Mistaken, Refused) as error:
            key["left_out"].append(f"{measure} not limited: {error.message}")


def _wanted(path: pathlib.Path, without_budget: bool) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Read which keys exist over there, and which of them are left behind, and why."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise Invalid(
            f"{path} is not JSON: save there what LiteLLM answers at /key/list?return_full_object=true"
        ) from error
    entries = data.get("keys") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Invalid(f"{path} holds no list of keys: ask LiteLLM for /key/list?return_full_object=true")
    found, behind = list[dict[str, Any]](), list[dict[str, str]]()
    for entry in entries:
        name = str(entry.get("key_alias") or entry.get("key_name") or "imported")
        expires = _moment(entry.get("expires"), path)
        models = entry.get("models") or None
        why = _why_not(entry, expires) or (None if without_budget else _unfit(entry))
        if why is not None:
            behind.append({"name": name, "why": why})
            continue
        if isinstance(models, list) and "all-proxy-models" in models:
            models = None
        limits, left_out = _limits(entry)
        found.append(
            {
                "name": name,
                "models": [str(m) for m in models] if isinstance(models, list) else None,
                "expires_at": expires,
                "limits": limits,
                "left_out": left_out,
            }
        )
    return found, behind


def _why_not(entry: dict[str, Any], expires: datetime | None) -> str | None:
    """Say why a key is not to be issued here: it may do nothing there, or nobody can tell from it what it may."""
    if entry.get("blocked"):
        return "blocked"
    if expires is not None and expires <= datetime.now(UTC):
        return f"expired on {expires:%Y-%m-%d}"
    if _is_number(entry.get("max_budget")) and entry["max_budget"] <= 0:
        return "its budget is 0: it may spend nothing"
    if isinstance(entry.get("models"), list) and "all-team-models" in entry["models"]:
        return "it may use the models of its team, which are not in this file: metier key issue NAME --model MODEL"
    return None


def _unfit(entry: dict[str, Any]) -> str | None:
    """Say why the budget of a key cannot be kept: issued all the same, it would spend without bound."""
    budget, duration = entry.get("max_budget"), entry.get("budget_duration")
    if entry.get("model_max_budget"):
        found = "its budgets per model have no counterpart"
    elif budget is None and entry.get("budget_id"):
        found = f"its budget is that of {str(entry['budget_id'])[:40]!r}, which is not in this file"
    elif budget is None or (_is_number(budget) and (budget >= _NO_BOUND or _period(duration) is not None)):
        return None
    elif not _is_number(budget):
        found = f"its budget {str(budget)[:20]!r} is no number"
    else:
        found = f"its budget of {budget} every {str(duration)[:20]!r} has no counterpart: periods are day, month, total"
    return (
        f"{found}; without it the key would have no bound: issue it with one that fits (metier key issue, then metier "
        "budget set money AMOUNT --per month --key KEY), or bring it as it is with --without-budget"
    )


def _period(duration: Any) -> LimitPeriod | None:
    return _PERIODS.get(duration) if duration is None or isinstance(duration, str) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _limits(entry: dict[str, Any]) -> tuple[list[tuple[Measure, LimitPeriod, Decimal]], list[str]]:
    """Read rates, concurrency and the budget; dollars are taken as euros, one for one."""
    found: list[tuple[Measure, LimitPeriod, Decimal]] = []
    for name, measure, period in _RATES:
        amount = entry.get(name)
        if isinstance(amount, int) and not isinstance(amount, bool) and amount > 0:
            found.append((measure, period, Decimal(amount)))
    left_out = []
    if entry.get("team_id"):
        left_out.append(f"limits of team {str(entry['team_id'])[:40]!r} are not brought over: metier budget set")
    if _is_number(entry.get("soft_budget")):
        left_out.append("its soft budget is not brought over: metier budget set --alert-only")
    budget, duration = entry.get("max_budget"), entry.get("budget_duration")
    every = _period(duration)
    if entry.get("model_max_budget") or (budget is None and entry.get("budget_id")):
        left_out.append("budgets per model or kept apart are not brought over: metier budget set")
    if budget is None or not _is_number(budget) or not 0 < budget < _NO_BOUND:
        return found, left_out
    if every is None:
        told = f"a budget of {budget} every {str(duration)[:20]!r} has no counterpart: metier budget set"
        return found, [*left_out, told]
    found.append(("money", every, Decimal(str(budget))))
    return found, left_out


def _told(limits: list[tuple[Measure, LimitPeriod, Decimal]]) -> list[str]:
    return [f"{amount:f} {UNITS[measure]} ({period})" for measure, period, amount in limits]


def _moment(value: Any, path: pathlib.Path) -> datetime | None:
    if not value:
        return None
    try:
        found = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError as error:
        raise Invalid(f"{path}: {str(value)[:40]!r} is no moment in ISO 8601") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
