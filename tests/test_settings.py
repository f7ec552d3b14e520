from __future__ import annotations

import pathlib

import pytest

from metier import settings
from metier.errors import ConfigError


def test_nothing_set_gives_working_defaults(tmp_path: pathlib.Path) -> None:
    found = settings.load({"METIER_HOME": str(tmp_path)})
    assert (found.home, found.port, found.lang, found.database_url) == (tmp_path, 8400, "fr", None)
    assert found.config == {} and found.config_path == tmp_path / "metier.yaml"


def test_secrets_are_taken_from_the_environment_by_name(tmp_path: pathlib.Path) -> None:
    (tmp_path / "metier.yaml").write_text("models:\n  writer: {api_key: env/SOME_KEY}\n")
    found = settings.load({"METIER_HOME": str(tmp_path), "SOME_KEY": "s3cret"})
    assert found.config["models"]["writer"]["api_key"] == "s3cret"
    with pytest.raises(ConfigError, match="SOME_KEY"):
        settings.load({"METIER_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("variable", "value"),
    [("METIER_PORT", "eighty"), ("METIER_PORT", "70000"), ("METIER_LANG", "de"), ("METIER_LOG_LEVEL", "loud")]
    + [("METIER_MASTER_KEY", "abc"), ("METIER_MASTER_KEY", "zz" * 32)],
)
def test_a_wrong_variable_is_named_with_what_to_do(tmp_path: pathlib.Path, variable: str, value: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        settings.load({"METIER_HOME": str(tmp_path), variable: value})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"models: [", "not valid YAML"),
        (b"- a\n- b\n", "mapping"),
        (b"modles: {}\n", "unknown section 'modles'"),
        ("models: é".encode("latin-1"), "UTF-8"),
    ],
)
def test_a_broken_metier_yaml_is_refused_plainly(tmp_path: pathlib.Path, content: bytes, said: str) -> None:
    (tmp_path / "metier.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        settings.load({"METIER_HOME": str(tmp_path)})


def test_there_are_at_most_twenty_variables_each_with_help() -> None:
    assert len(settings.VARIABLES) <= 20
    assert all(v.name.startswith("METIER_") and v.help.endswith(".") for v in settings.VARIABLES)
