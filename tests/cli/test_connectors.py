"""`metier secret` and `metier connectors`: what people do with them on a real house; no value is seen again."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import yaml

from tests.cli.house import House

VALUE = "canary-of-the-command-line"


def told(house: House, *arguments: str, value: str) -> subprocess.CompletedProcess[str]:
    program = pathlib.Path(sys.executable).with_name("metier")
    return subprocess.run(
        [str(program), *arguments], input=value, env=house.environment, capture_output=True, text=True, check=False
    )


def test_a_secret_comes_from_the_standard_input_or_a_file_and_is_never_shown(
    house: House, tmp_path: pathlib.Path
) -> None:
    done = told(house, "secret", "set", "erp", "--for", "hooks", value=VALUE + "\n")
    assert done.returncode == 0 and "erp is set, for hooks." in done.stdout and VALUE not in done.stdout + done.stderr
    (tmp_path / "value").write_text(VALUE)
    house.run("key", "project", "atelier-secret")
    house.run("secret", "set", "erp", "--for", "*", "--project", "atelier-secret", "--file", str(tmp_path / "value"))
    found = [one for one in house.data("secret", "list")["secrets"] if one["name"] == "erp"]
    assert [(one["scope"], one["project"] is None) for one in found] == [(["hooks"], True), (["*"], False)]
    assert VALUE not in house.run("secret", "list") and VALUE not in str(found)
    house.run("secret", "remove", "erp", "--project", "atelier-secret")
    assert "there is no secret" in house.run("secret", "remove", "erp", "--project", "atelier-secret", code=2)
    refused = told(house, "secret", "set", "A B", "--for", "hooks", value=VALUE)
    assert refused.returncode == 2 and VALUE not in refused.stdout + refused.stderr
    empty = told(house, "secret", "set", "erp", "--for", "hooks", value="\n")
    assert empty.returncode == 2 and "1 to 64,000 characters" in empty.stderr


def test_a_connector_is_written_shown_tested_and_removed(house: House, tmp_path: pathlib.Path) -> None:
    config = pathlib.Path(house.environment["METIER_HOME"]) / "metier.yaml"
    before = config.read_text() if config.exists() else None
    try:
        config.write_text((before or "") + "# what people wrote\n")
        told(house, "secret", "set", "local", "--for", "hooks", value=VALUE)
        options = (
            "--option",
            "url=http://127.0.0.1:9/h",
            "--option",
            "secret=local",
            "--option",
            "private=[127.0.0.1]",
        )
        house.run("connectors", "add", "hooks", "--kind", "webhook", *options)
        assert yaml.safe_load(config.read_text())["connectors"]["hooks"]["private"] == ["127.0.0.1"]
        assert "already" in house.run("connectors", "add", "hooks", "--kind", "webhook", *options, code=2)
        (listed,) = house.data("connectors", "list", "--tools")["connectors"]
        assert [(tool["name"], tool["effect"]) for tool in listed["tools"]] == [("hooks.send", True)]
        assert "nothing was posted" in house.run("connectors", "test", "hooks")
        with_ = '{"type": "a.b", "data": {"id": 1}}'
        shown = house.data("connectors", "test", "hooks", "--tool", "send", "--with", with_)["would_do"]
        assert shown["body"] == {"type": "a.b", "data": {"id": 1}} and VALUE not in str(shown)
        assert "no JSON" in house.run("connectors", "test", "hooks", "--tool", "send", "--with", "{", code=2)
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text("kind: webhook\nurl: https://x.example\n")
        assert "needs secret" in house.run("connectors", "add", "other", "--file", str(wrong), code=2)
        house.run("connectors", "remove", "hooks")
        assert "# what people wrote\n" in config.read_text()
        assert house.data("connectors", "list")["connectors"] == []
        assert "no connector 'hooks'" in house.run("connectors", "test", "hooks", code=2)
    finally:
        if before is None:
            config.unlink(missing_ok=True)
        else:
            config.write_text(before)
