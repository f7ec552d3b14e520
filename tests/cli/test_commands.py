"""What holds for every command: help, JSON, exit codes by whose fault it is, no traceback, no secret."""

from __future__ import annotations

import importlib
import json
import pathlib
import re
from collections.abc import Iterator

import click
import pytest

from metier.cli import COMMANDS
from tests.cli.house import House


def every() -> Iterator[tuple[str, ...]]:
    """The words of every command and subcommand."""
    for name in COMMANDS:
        module = "imports" if name == "import" else name
        command: click.Command = importlib.import_module(f"metier.cli.{module}").command
        yield (name,)
        if isinstance(command, click.Group):
            yield from ((name, sub) for sub in command.commands)


def test_the_first_page_lists_every_command(house: House) -> None:
    told = house.run("--help")
    assert all(name in told and help.split(":")[0][:30] in told for name, help in COMMANDS.items())
    assert "Exit codes" in told
    assert re.search(r"metier, version \d+\.\d+", house.run("--version"))


@pytest.mark.parametrize("words", [*every()], ids=" ".join)
def test_every_command_explains_itself(house: House, words: tuple[str, ...]) -> None:
    told = house.run(*words, "--help")
    assert told.startswith(f"Usage: metier {' '.join(words)}")
    group = re.search(r"\[?COMMAND\]? \[ARGS\]", told)
    assert group or "--json" in told


@pytest.mark.parametrize(
    "words",
    [("shout",), ("runs", "shout"), ("runs", "list", "--loud"), ("key", "issue"), ("runs", "list", "--limit", "0"),
     ("system", "move", "x", "holy"), ("train", "--features", "magic")],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_is_wrong_leaves_with_2(house: House, words: tuple[str, ...]) -> None:
    assert "Error" in house.run(*words, code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "nothing-like-it"), "nothing-like-it"),
        (("lint", "/nowhere/flow.yaml"), "/nowhere/flow.yaml"),
        (("test", "nothing-like-it"), "support-reply"),
        (("runs", "show", "run_x"), "run_x"),
        (("runs", "cancel", "run_x"), "run_x"),
        (("runs", "resume", "run_x"), "run_x"),
        (("review", "show", "task_x"), "task_x"),
        (("review", "approve", "task_x"), "task_x"),
        (("review", "reject", "task_x", "--note", "non"), "task_x"),
        (("review", "hand-off", "task_x", "group:sav", "--note", "vu"), "task_x"),
        (("system", "show", "nobody"), "nobody"),
        (("system", "move", "nobody", "pilot"), "nobody"),
        (("key", "issue", "k", "--system", "nobody", "--project", "nowhere"), "nowhere"),
        (("key", "revoke", "nothing"), "nothing"),
        (("ingest", "rayon", "/nowhere"), "/nowhere"),
        (("ingest", "rayon", "--list"), "rayon"),
        (("ask", "rayon", "Combien ?"), "rayon"),
        (("models", "pull", "huge-model"), "huge-model"),
        (("models", "use", "writer", "poet"), "poet"),
        (("train", "intent", "/nowhere.jsonl"), "/nowhere.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_not_there_is_named_and_leaves_with_2(house: House, words: tuple[str, ...], said: str) -> None:
    assert said in " ".join(house.run(*words, code=2).split())
    told = house.data(*words, code=2)
    assert set(told["error"]) == {"code", "message"}, "programs get the code and the message"


def test_a_database_that_refuses_leaves_with_4_and_keeps_the_password(house: House, server_url: str) -> None:
    told = house.run("system", "list", code=4, env={"METIER_DATABASE_URL": server_url})
    assert "METIER_DATABASE_URL" in told and "s3cret-word" not in told
    told = house.run("runs", "list", "--json", code=4, env={"METIER_DATABASE_URL": server_url})
    assert json.loads(told)["error"]["code"] == "unavailable" and "s3cret-word" not in told


@pytest.fixture
def server_url(house: House) -> str:
    """The address of a real server with a wrong password."""
    return re.sub(r"//metier:[^@]*@", "//metier:s3cret-word@", house.database_url)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://metier:s3cret-word@127.0.0.1:1/metier", 4),
        ("postgresql://metier:s3cret-word@/metier?host=/nowhere", 4),
        ("mysql://metier:s3cret-word@127.0.0.1/metier", 2),
        ("postgresql://metier:s3cret-word@127.0.0.1:port/metier", 4),
    ],
)
def test_an_address_that_leads_nowhere_is_told_without_its_password(house: House, url: str, code: int) -> None:
    told = house.run("system", "list", code=code, env={"METIER_DATABASE_URL": url})
    assert "METIER_DATABASE_URL" in told and "s3cret-word" not in told


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [", "not valid YAML"),
        ("modles: {}", "unknown section 'modles'"),
        ("models: {writer: {deployments: []}}", "models.writer"),
        ("models: {writer: {deployments: [{provider: azure, model_id: m}]}}", "needs the `base_url` of its resource"),
        (
            "models: {writer: {deployments: [{provider: openai, model_id: m, base_url: h:1}]}}",
            "with http:// or https://",
        ),
        ("- a\n- b", "mapping"),
    ],
)
def test_a_wrong_metier_yaml_leaves_with_2(house: House, tmp_path: pathlib.Path, text: str, said: str) -> None:
    path = tmp_path / "metier.yaml"
    path.write_text(text)
    assert said in " ".join(house.run("runs", "list", code=2, env={"METIER_CONFIG": str(path)}).split())
    assert said in " ".join(house.run("models", "list", code=2, env={"METIER_CONFIG": str(path)}).split())


@pytest.mark.parametrize(
    ("name", "value"),
    [("METIER_LANG", "de"), ("METIER_PORT", "http"), ("METIER_LOG_LEVEL", "loud"), ("METIER_MASTER_KEY", "ab")],
)  # fmt: skip
def test_a_wrong_variable_leaves_with_2(house: House, name: str, value: str) -> None:
    assert name in house.run("system", "list", code=2, env={name: value})


def test_a_home_that_cannot_be_written_is_told_and_leaves_with_4(house: House, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    env = {"METIER_HOME": f"{tmp_path}/file/home", "METIER_CONFIG": f"{tmp_path}/metier.yaml"}
    told = house.run("models", "pull", "multilingual-e5-small", code=4, env=env)
    assert f"writing to '{tmp_path}/file/home" in told and "METIER_HOME" in told


def test_commands_that_call_no_model_need_no_credential_of_a_provider(house: House, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metier.yaml"
    path.write_text("models: {writer: {deployments: [{provider: openai, model_id: m, api_key: env/NOT_SET_HERE}]}}")
    env = {"METIER_CONFIG": str(path)}
    for command in (
        "models list",
        "models choose",
        "key list",
        "system list",
        "budget list",
        "usage",
        "calls list",
        "cache show",
        "batches list",
    ):
        assert "NOT_SET_HERE" not in house.run(*command.split(), env=env)
    assert "which is not set: set it" in house.run("ask", "rayon", "x", code=2, env=env)


def test_an_address_may_stand_in_a_variable_that_is_not_set_where_nobody_is_called(
    house: House, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "metier.yaml"
    path.write_text(
        "models:\n  own: {deployments: [{provider: openai, model_id: m, base_url: env/NO_BASE, api_key: env/NO_KEY}]}\n"
        "  alias: {rules: [{use: own}]}\n"
    )
    env = {"METIER_CONFIG": str(path)}
    assert "one of own" in house.run("models", "list", env=env)
    told = house.run("ask", "rayon", "x", code=2, env=env)
    assert "2 are not set: set NO_BASE, NO_KEY where" in told
    gone = house.run("models", "list", env={"METIER_CONFIG": f"{path}.gone"})
    assert "which does not exist" in " ".join(gone.split())


def test_a_role_that_means_no_model_leaves_with_2(house: House, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metier.yaml"
    path.write_text("roles: {writer: wrtier}")
    told = house.run("system", "list", code=2, env={"METIER_CONFIG": str(path)})
    assert "roles.writer: there is no model 'wrtier'" in told
