"""Reads a LiteLLM configuration and says the same in Métier's words, line by line where it cannot. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import yaml

from metier.catalog import PROVIDERS, Catalog
from metier.cli.litellm_terms import ADDRESSES, MODES, RENAMED, SETTINGS
from metier.errors import ConfigError, Invalid

__all__ = ["Migration", "Note", "translate"]

_SECRETS = ("api_key", "client_secret", "secret_access_key", "session_token", "service_account")
_NOT_A_NAME = re.compile(r"[^\w.:/@+-]")
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Note:
    """Something of the file that needs a person: left out, changed, or to be done by hand."""

    line: int
    path: str
    """Where in the file, such as model_list[2].litellm_params.drop_params."""
    kind: Literal["left out", "changed", "by hand"]
    text: str


@dataclass(slots=True)
class Migration:
    """What becomes of a configuration."""

    config: dict[str, Any] = field(default_factory=dict)
    """Sections of metier.yaml."""
    notes: list[Note] = field(default_factory=list)
    deployments: int = 0
    read: int = 0
    """Entries of model_list in the file."""


def translate(text: str, source: str) -> Migration:
    """Map what can be mapped, note the rest with its line, and check that the result loads."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{source}:{mark.line + 1}" if mark is not None else source
        raise Invalid(f"{place} is not YAML: {getattr(error, 'problem', None) or 'it cannot be read'}") from error
    if not isinstance(data, dict) or tree is None:
        raise Invalid(f"{source} is no LiteLLM configuration: expected a mapping with model_list")
    reader = _Reader(_lines(tree))
    reader.models(data.get("model_list"))
    reader.settings(data)
    migration = reader.migration
    try:
        catalog = Catalog.from_yaml(migration.config["models"])
    except ConfigError as error:
        raise Invalid(f"what was read of {source} does not make a catalogue: {error.message}") from error
    if any((one.get("price") or {}).get("currency") == "USD" for one in _all_deployments(migration.config["models"])):
        migration.notes.append(Note(0, "eur_per_usd", "by hand", _DOLLARS))
    for model in catalog.models():
        without = [one.id for one in model.deployments if one.price is None and not one.allow_unpriced]
        if without and not model.rules:
            told = (
                f"no price is known for {', '.join(without)}, so no call goes there: add `price: {{input, output}}` "
                "per million tokens in metier.yaml, or `allow_unpriced: true`"
            )
            migration.notes.append(Note(0, f"models.{model.name}", "by hand", told))
    migration.notes.sort(key=lambda note: note.line)
    return migration


def _lines(node: yaml.Node, path: str = "") -> dict[str, int]:
    """Number every entry of the file by its path."""
    found = {path: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = f"{path}.{key.value}" if path else str(key.value)
            found |= _lines(value, place)
            found[place] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found |= _lines(value, f"{path}[{index}]")
    return found


class _Reader:
    """One reading of one file."""

    def __init__(self, lines: Mapping[str, int]) -> None:
        self._lines = lines
        self._names: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self.migration = Migration(config={"models": {}})

    def note(self, path: str, kind: Literal["left out", "changed", "by hand"], text: str) -> None:
        """Tell what happens to one entry."""
        self.migration.notes.append(Note(self._lines.get(path, 0), path, kind, text))

    def models(self, entries: Any) -> None:
        """Read model_list: entries of one name become deployments of one model."""
        if not isinstance(entries, list):
            self.note("model_list", "left out", "model_list is missing or no list: there is no model to bring over")
            return
        self.migration.read = len(entries)
        for index, entry in enumerate(entries):
            path = f"model_list[{index}]"
            params = entry.get("litellm_params") if isinstance(entry, dict) else None
            if not isinstance(params, dict) or not isinstance(params.get("model"), str):
                self.note(path, "left out", "no litellm_params.model: the entry names no model")
                continue
            self._model(path, str(entry.get("model_name") or params["model"]), params, entry.get("model_info") or {})
            for key in sorted(entry.keys() - {"model_name", "litellm_params", "model_info"}):
                self.note(f"{path}.{key}", "left out", f"{key!r} is not known")
        self._keep_what_loads()

    def _keep_what_loads(self) -> None:
        """Leave out, and tell, each model that would not load, so that one bad entry does not cost the others."""
        models = self.migration.config["models"]
        for name, model in list(models.items()):
            wrong = _wrong(name, model)
            bases = [one.pop("base_model") for one in model["deployments"] if "base_model" in one] if wrong else []
            if bases and not _wrong(name, model):
                self.note(self._places[name], "changed", f"`base_model` {', '.join(bases)} is left out: {wrong}")
            elif wrong:
                self.note(self._places[name], "left out", wrong)
                self.migration.deployments -= len(models.pop(name)["deployments"])

    def _model(self, path: str, given: str, params: dict[str, Any], info: dict[str, Any]) -> None:
        if "*" in given or "*" in params["model"]:
            self.note(
                path, "by hand", f"{given!r} is a pattern: models are declared one by one, so that each has a price"
            )
            return
        name = self._named(path, given)
        prefix, _, rest = params["model"].partition("/")
        kind = params.get("custom_llm_provider") or (prefix if rest else "openai")
        model_id = rest if rest and kind == prefix else params["model"]
        deployment = self._deployment(f"{path}.litellm_params", str(kind), model_id, params)
        if deployment is None:
            return
        self._places.setdefault(name, path)
        model = self.migration.config["models"].setdefault(name, {"deployments": []})
        self._info(f"{path}.model_info", info, model, deployment)
        self._price(f"{path}.litellm_params", {**info, **params}, deployment, model.get("operation") == "embed")
        model["deployments"].append(deployment)
        self.migration.deployments += 1

    def _named(self, path: str, given: str) -> str:
        name = _NOT_A_NAME.sub("-", given)[:120]
        if name != given and given not in self._names:
            self.note(f"{path}.model_name", "changed", f"the name becomes {name!r}: clients must ask for that")
        self._names[given] = name
        return name

    def _deployment(self, path: str, kind: str, model_id: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """Make the entry of one deployment; None where its provider cannot be reached from here."""
        provider, address = _provider(kind)
        if provider is None:
            self.note(f"{path}.model", "left out", f"provider {kind!r} has no counterpart here")
            return None
        if provider == "bedrock":
            model_id = model_id.removeprefix("converse/").removeprefix("invoke/")
        found: dict[str, Any] = {"provider": provider, "model_id": model_id}
        base = params.get("api_base") or params.get("base_url") or address
        if not base and provider == "azure":
            base = "os.environ/AZURE_API_BASE"
            self.note(path, "by hand", "no address is given: put that of the resource into the variable AZURE_API_BASE")
        if base:
            found["base_url"] = _address(kind, str(base))
            if found["base_url"].startswith("env/") and kind in ("ollama", "ollama_chat"):
                self.note(f"{path}.api_base", "by hand", "the address in this variable has to end with /v1 here")
        options: dict[str, str] = {}
        known = frozenset().union(*PROVIDERS[provider])
        for key, value in params.items():
            term = RENAMED.get(key)
            if key in _HANDLED or value is None:
                continue
            if term in known:
                options[term] = self._value(f"{path}.{key}", term, value)
            elif term is not None and term in _DEPLOYMENT:
                self._field(f"{path}.{key}", term, value, found)
            else:
                self.note(f"{path}.{key}", "left out", SETTINGS.get(key, f"{key!r} has no counterpart"))
        missing = sorted(PROVIDERS[provider][0] - options.keys())
        if missing:
            self.note(path, "by hand", f"{provider} needs {', '.join(missing)}, written as FILL-IN for now")
            options |= dict.fromkeys(missing, "FILL-IN")
        if options:
            found["options"] = options
        return found

    def _field(self, path: str, term: str, value: Any, found: dict[str, Any]) -> None:
        if term == "api_key" and str(value).strip().lower() in _NO_KEYS and "base_url" in found:
            self.note(path, "changed", f"{value!r} is taken for no key: none is sent")
        elif term == "api_key":
            found[term] = self._value(path, term, value)
        elif (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and value >= (0 if term == "priority" else 1e-9)
        ):
            found[term] = int(value) if term in ("rpm", "tpm", "priority") else value
        else:
            self.note(path, "left out", f"expected a number, found {str(value)[:40]!r}")

    def _value(self, path: str, term: str, value: Any) -> str:
        """Keep a reference to the environment; a secret written in clear is not copied."""
        text = str(value)
        if text.startswith("os.environ/"):
            return "env/" + text.removeprefix("os.environ/")
        if term not in _SECRETS or (term == "service_account" and not text.lstrip().startswith("{")):
            return text
        variable = re.sub(r"[\W_]+", "_", path.split(".")[0] + "_" + term).strip("_").upper()
        self.note(path, "by hand", f"the secret stands in clear and is not copied: put it into the variable {variable}")
        return f"env/{variable}"

    def _info(self, path: str, info: dict[str, Any], model: dict[str, Any], deployment: dict[str, Any]) -> None:
        for key, value in info.items():
            if key == "id":
                deployment["id"] = _NOT_A_NAME.sub("-", str(value))[:120]
            elif key == "mode" and value in MODES:
                model["operation"] = MODES[value]
            elif key == "max_input_tokens" and isinstance(value, int) and value > 0:
                deployment["context_tokens"] = value
            elif key in ("max_output_tokens", "max_tokens") and isinstance(value, int) and value > 0:
                deployment["max_output_tokens"] = value
            elif key == "base_model" and isinstance(value, str) and value:
                deployment["base_model"] = value.rpartition("/")[2]
            elif key == "supports_function_calling" and isinstance(value, bool):
                deployment["tools"] = value
            elif key == "supports_vision" and isinstance(value, bool):
                deployment["modalities"] = ["text", "image"] if value else ["text"]
            elif "cost_per" not in key:
                self.note(f"{path}.{key}", "left out", SETTINGS.get(key, f"{key!r} has no counterpart"))

    def _price(self, path: str, given: Mapping[str, Any], deployment: dict[str, Any], embeds: bool) -> None:
        """Turn dollars a token into dollars a million tokens."""
        price = {ours: _dollars(given[theirs]) for theirs, ours in _PRICES.items() if _is_number(given.get(theirs))}
        if embeds and "input" in price:
            price.setdefault("output", 0.0)
        if "input" in price and "output" in price:
            deployment["price"] = price | {"currency": "USD"}
        elif price:
            self.note(path, "by hand", "only one of the input and output prices is given: give both as `price`")

    def settings(self, data: dict[str, Any]) -> None:
        """Read the other sections: fallbacks and aliases are mapped, the rest is said."""
        aliases = self._section(data, "router_settings").get("model_group_alias") or {}
        for alias, target in aliases.items() if isinstance(aliases, dict) else ():
            self._alias(str(alias), target["model"] if isinstance(target, dict) and "model" in target else target)
        for section in ("litellm_settings", "router_settings"):
            for key, value in self._section(data, section).items():
                path = f"{section}.{key}"
                if key in ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks"):
                    self._fallbacks(path, value)
                elif key == "default_fallbacks" and isinstance(value, list):
                    names = [name for name, ours in self._names.items() if self._operation(ours) == "chat"]
                    self._fallbacks(path, [{name: value} for name in names])
                elif key != "model_group_alias":
                    self.note(path, "left out", SETTINGS.get(key, f"{key!r} has no counterpart"))
        for section in sorted(data.keys() - {"model_list", "litellm_settings", "router_settings"}):
            entries = data[section]
            for name in map(str, entries) if isinstance(entries, dict) else [""]:
                path = f"{section}.{name}" if name else section
                text = SETTINGS.get(name) or SETTINGS.get(section) or f"{section!r} has no counterpart"
                self.note(path, "by hand" if name == "master_key" or section in _PEOPLE else "left out", text)

    def _section(self, data: dict[str, Any], name: str) -> dict[str, Any]:
        found = data.get(name)
        return found if isinstance(found, dict) else {}

    def _alias(self, alias: str, target: Any) -> None:
        path, models = f"router_settings.model_group_alias.{alias}", self.migration.config["models"]
        name = self._names.get(str(target), "")
        if name not in models or alias in models or _NOT_A_NAME.search(alias):
            self.note(path, "left out", f"the alias {alias!r} points to no model of the list, or its name is taken")
        else:
            models[alias] = {"rules": [{"use": name}], "operation": models[name].get("operation", "chat")}

    def _operation(self, name: str) -> str | None:
        model = self.migration.config["models"].get(name)
        return None if model is None else str(model.get("operation", "chat"))

    def _fallbacks(self, path: str, value: Any) -> None:
        models = self.migration.config["models"]
        pairs = (
            [(k, v) for one in value if isinstance(one, dict) for k, v in one.items()]
            if isinstance(value, list)
            else []
        )
        if not pairs:
            self.note(path, "left out", "expected a list of {model: [models]}")
        for given, targets in pairs:
            name = self._names.get(str(given), "")
            wanted = [self._names.get(str(target)) for target in _listed(targets)]
            if name not in models or "rules" in models[name]:
                self.note(path, "left out", f"{given!r} is no model of the list")
                continue
            like = self._operation(name)
            known = [target for target in wanted if target != name and target and self._operation(target) == like]
            if len(known) < len([target for target in wanted if target != name]):
                self.note(path, "left out", f"some fallbacks of {given!r} are no models of the list for the same calls")
            before = models[name].get("fallbacks", [])
            models[name]["fallbacks"] = [*before, *(target for target in known if target not in before)]
            if not models[name]["fallbacks"]:
                del models[name]["fallbacks"]


_PRICES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached",
    "cache_creation_input_token_cost": "cache_write",
}
_HANDLED = frozenset({"model", "custom_llm_provider", "api_base", "base_url", *_PRICES})
_DEPLOYMENT = frozenset({"api_key", "rpm", "tpm", "weight", "priority", "timeout_s", "first_token_s"})
_NO_KEYS = frozenset({"", "none", "empty", "null", "dummy", "fake", "fake-key", "anything", "no-key", "not-needed"})
_DOLLARS = "a dollar counts as a euro unless `eur_per_usd:` in metier.yaml says what it is"
_PEOPLE = frozenset({"guardrails", "mcp_servers", "environment_variables"})


def _provider(kind: str) -> tuple[str | None, str | None]:
    """Say which kind of provider of ours it is, and where it lives when the file does not tell."""
    if kind in ADDRESSES:
        return "openai", ADDRESSES[kind]
    ours = {"vertex_ai": "vertex", "vertex_ai_beta": "vertex", "azure_text": None, "google": "gemini"}.get(kind, kind)
    return (ours, None) if ours in PROVIDERS and ours not in ("local", "scripted") else (None, None)


def _address(kind: str, base: str) -> str:
    if base.startswith("os.environ/"):
        return "env/" + base.removeprefix("os.environ/")
    base = base.rstrip("/")
    return f"{base}/v1" if kind in ("ollama", "ollama_chat") and not base.endswith("/v1") else base


def _all_deployments(models: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return (one for model in models.values() for one in model.get("deployments", ()))


def _wrong(name: str, model: Mapping[str, Any]) -> str | None:
    """Say why a model would not load; None where it does."""
    try:
        Catalog.from_yaml({name: model})
    except ConfigError as error:
        return error.message.removeprefix("metier.yaml: ")
    return None


def _is_number(value: Any) -> bool:
    try:
        return value is not None and not isinstance(value, bool) and Decimal(str(value)) >= 0
    except ArithmeticError:
        return False


def _dollars(value: Any) -> float:
    return float((Decimal(str(value)) * _MILLION).normalize())


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]
