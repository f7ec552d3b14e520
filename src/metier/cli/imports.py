"""`metier import`: take over what another gateway is configured to do."""

from __future__ import annotations

import getpass
import json
import pathlib
from datetime import UTC, datetime
from typing import Any

import click
import yaml
from rich.markup import escape

from metier.app import App
from metier.cli import preparation
from metier.cli.litellm import Migration, translate
from metier.cli.terminal import Terminal, as_json_option, run, without_platform
from metier.errors import Conflict, Invalid
from metier.policy.keys import Scopes
from metier.settings import Settings

__all__ = ["command"]


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
@as_json_option
def _litellm_keys(file: pathlib.Path, system: str, project: str, apply: bool, as_json: bool) -> None:
    """Issue a key of ours for each key in the JSON of LiteLLM's /key/list?return_full_object=true.

    Only the digest of a key is known over there, so none can be copied: new ones are issued and shown this once.
    Blocked and expired keys are left behind; models and expiry are kept.

    Example: metier import litellm-keys keys.json --system support-reply --apply
    """

    async def work(app: App, terminal: Terminal) -> None:
        owner, use = await app.keys.project(project), await preparation.system_id(app, system)
        found = _wanted(file)
        for key in found if apply else ():
            scopes = Scopes(None if key["models"] is None else frozenset(key["models"]))
            issued = await app.keys.issue(
                key["name"], owner.id, use, getpass.getuser(), scopes=scopes, expires_at=key["expires_at"]
            )
            key["secret"] = issued.secret
        terminal.data({"keys": found, "applied": apply})
        terminal.table(
            ["key there", "models", "until", "key here"],
            [
                [
                    key["name"], "all" if key["models"] is None else ", ".join(key["models"]),
                    str(key["expires_at"] or "for ever"), key.get("secret", "to be issued with --apply"),
                ]
                for key in found
            ],
        )  # fmt: skip
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


def _wanted(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read which keys exist over there, the blocked and expired ones left out."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise Invalid(
            f"{path} is not JSON: save there what LiteLLM answers at /key/list?return_full_object=true"
        ) from error
    entries = data.get("keys") if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Invalid(f"{path} holds no list of keys: ask LiteLLM for /key/list?return_full_object=true")
    found = []
    for entry in entries:
        expires = _moment(entry.get("expires"), path)
        if entry.get("blocked") or (expires is not None and expires <= datetime.now(UTC)):
            continue
        models = entry.get("models") or None
        name = str(entry.get("key_alias") or entry.get("key_name") or "imported")
        found.append({"name": name, "models": [str(m) for m in models] if models else None, "expires_at": expires})
    return found


def _moment(value: Any, path: pathlib.Path) -> datetime | None:
    if not value:
        return None
    try:
        found = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError as error:
        raise Invalid(f"{path}: {str(value)[:40]!r} is no moment in ISO 8601") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
