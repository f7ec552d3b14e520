"""`metier init`: finds a model, writes metier.yaml, and makes the first system, project and key."""

from __future__ import annotations

import getpass
from typing import Any

import aiohttp
import click
import yaml

from metier import settings as configuration
from metier.app import App, Parts, build
from metier.catalog import Catalog
from metier.cli import preparation
from metier.cli.terminal import Terminal, as_json_option, guarded, quiet
from metier.errors import ConfigError, NotFound
from metier.settings import Settings

__all__ = ["command"]

_SERVERS = {"ollama": "http://127.0.0.1:11434/v1", "vllm": "http://127.0.0.1:8000/v1"}
_HOSTED: dict[str, dict[str, Any]] = {
    "openai": {
        "provider": "openai", "key": "OPENAI_API_KEY", "url": "https://api.openai.com/v1", "chat": "gpt-4o-mini",
        "country": "US",
    },
    "anthropic": {
        "provider": "anthropic", "key": "ANTHROPIC_API_KEY", "url": "https://api.anthropic.com/v1",
        "chat": "claude-haiku-4-5", "country": "US",
    },
    "mistral": {
        "provider": "openai", "key": "MISTRAL_API_KEY", "url": "https://api.mistral.ai/v1",
        "chat": "mistral-small-latest", "country": "FR",
    },
}  # fmt: skip


@click.command()
@click.option(
    "--model", "choice", type=click.Choice(["local", "openai", "anthropic", "mistral", "ollama", "vllm"]),
    help="Where models come from; asked when it is not given and there is a choice.",
)  # fmt: skip
@click.option("--key/--no-key", default=True, show_default=True, help="Issue a first virtual key.")
@click.option("--dry-run", is_flag=True, help="Say what was found and what would be written.")
@as_json_option
def command(choice: str | None, key: bool, dry_run: bool, as_json: bool) -> None:
    """Prepare this machine: find a model, write metier.yaml, start the database, make the first system and key.

    It can be run again: what exists is kept. Models of other providers (Azure, Bedrock, Gemini, Vertex AI) are declared
    in metier.yaml.

    Examples: metier init

    metier init --model anthropic

    metier init --model local --dry-run
    """
    terminal = Terminal(as_json)
    guarded(lambda: _init(terminal, choice, key, dry_run), terminal)


async def _init(terminal: Terminal, choice: str | None, key: bool, dry_run: bool) -> None:
    settings = configuration.load()
    quiet(settings)
    found = await _found()
    for name, models_there in found.items():
        where = _HOSTED[name]["key"] if name in _HOSTED else f"a server at {_SERVERS[name]}"
        terminal.say(f"Found {name} ({where}): {', '.join(models_there[:5]) or 'no model yet'}")
    if not found:
        terminal.say(f"Found no key of a provider ({', '.join(h['key'] for h in _HOSTED.values())}), no model server.")
    models = settings.config.get("models")
    if models and choice is None:
        terminal.say(f"{settings.config_path} already declares {', '.join(models)}: kept.")
    else:
        chosen = choice or _ask(found, terminal)
        models = _models(chosen, found)
        Catalog.from_yaml(models)
        written = {**_as_written(settings), "models": models}
        if dry_run:
            terminal.data({"found": sorted(found), "chosen": chosen, "config": written})
            terminal.say(f"Would write {settings.config_path} with the models of {chosen}. Nothing was changed.")
            return
        preparation.write_config(settings.config_path, written)
        terminal.say(f"{settings.config_path} written: models of {chosen}.")
        if chosen == "local":
            await preparation.fetch(settings, [preparation.CHAT_WEIGHTS], terminal)
        await preparation.fetch(settings, [preparation.EMBEDDING_WEIGHTS], terminal)
    if dry_run:
        terminal.data({"found": sorted(found), "config": dict(settings.config)})
        return
    async with build(configuration.load(), Parts(loading=preparation.Loading(terminal))) as app:
        await _first(app, terminal, key)


async def _first(app: App, terminal: Terminal, key: bool) -> None:
    await preparation.house(app)
    system = await preparation.approved_system(
        app, "first-trial", "First trial of the gateway by the platform team", getpass.getuser(), getpass.getuser()
    )
    project = (await app.keys.project("default")).id
    secret = None
    known = {k.name for k in await app.keys.list() if k.revoked_at is None}
    if key and "first key" not in known:
        secret = (await app.keys.issue("first key", project, system, getpass.getuser(), groups=["public"])).secret
    terminal.data({"home": str(app.settings.home), "models": app.catalog.names(), "system": system, "key": secret})
    if secret:
        terminal.say(f"\nYour key, shown this once: [bold]{secret}[/bold]")
    base = f"http://127.0.0.1:{app.settings.port}/v1"
    terminal.say(
        f"\nNext: `metier serve`, then point any OpenAI client at {base} with {'that' if secret else 'your'} key, "
        f"model {_to_try(app)!r}. `metier demo` shows the main job; `metier models list` what may be called."
    )


def _to_try(app: App) -> str:
    """Name the chat model to begin with: the one that writes, or else the first one declared."""
    chat = [model.name for model in app.catalog.models() if model.operation == "chat"]
    return next((name for name in (app.roles["writer"], *chat) if name in chat), "writer")


async def _found() -> dict[str, list[str]]:
    """What this machine offers: hosted providers with a credential, model servers that answer on loopback."""
    found: dict[str, list[str]] = {}
    keys = configuration.found_provider_keys()
    for name, host in _HOSTED.items():
        if host["key"] in keys:
            found[name] = [str(host["chat"])]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        for name, url in _SERVERS.items():
            try:
                async with session.get(f"{url}/models") as response:
                    offered = await response.json(content_type=None)
                    found[name] = [str(model["id"]) for model in offered["data"]]
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
                continue
    return found


def _ask(found: dict[str, list[str]], terminal: Terminal) -> str:
    """Propose what was found before the local model; without a terminal, take the first proposal."""
    usable = [name for name, models in found.items() if models]
    if not usable or terminal.as_json or not terminal.out.is_terminal:
        return usable[0] if usable else "local"
    return str(click.prompt("Which models", type=click.Choice([*usable, "local"]), default=usable[0]))


def _models(chosen: str, found: dict[str, list[str]]) -> dict[str, Any]:
    own = preparation.local_models()
    if chosen == "local":
        return own
    if chosen in _HOSTED:
        host = _HOSTED[chosen]
        if chosen not in found:
            raise ConfigError(f"{host['key']} is not set: set it, then run `metier init --model {chosen}` again")
        deployment = {
            "provider": host["provider"], "base_url": host["url"], "model_id": host["chat"],
            "api_key": f"env/{host['key']}", "hosting": "public", "country": host["country"],
        }  # fmt: skip
    else:
        if not found.get(chosen):
            raise NotFound(f"no {chosen} answers at {_SERVERS[chosen]}, or it has no model: start it, then try again")
        deployment = {
            "provider": "openai", "base_url": _SERVERS[chosen], "model_id": found[chosen][0], "hosting": "local",
            "price": {"input": 0, "output": 0}, "context_tokens": 8192, "max_output_tokens": 1024,
        }  # fmt: skip
    return {role: {"deployments": [{**deployment, "id": f"{chosen}-{role}"}]} for role in ("writer", "judge")} | {
        "embedder": own["embedder"]
    }


def _as_written(settings: Settings) -> dict[str, Any]:
    """What metier.yaml holds besides models, as it stands in the file: references to secrets stay references."""
    if not settings.config_path.exists():
        return {}
    raw = yaml.safe_load(settings.config_path.read_text(encoding="utf-8")) or {}
    return {name: value for name, value in raw.items() if name != "models"}
