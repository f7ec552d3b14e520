"""`metier triggers`: deployed, tried, fired, paused, mended and removed from the command line."""

from __future__ import annotations

import json
import pathlib

from tests.cli.house import House
from tests.cli.test_flows import allowed

FLOW = """
flow: NAME
schema: 1
inputs: {order: string}
triggers:
  - api: {}
  - form: {title: Commande}
  - webhook:
      secret: shop-hook
      when: event.body.kind == 'order'
      with: {order: "{{ event.body.order }}"}
steps:
  - {id: note, emit: {event: ordered}, with: {order: "{{ inputs.order }}"}}
output: {order: "{{ inputs.order }}"}
"""


def written(folder: pathlib.Path, name: str, text: str = FLOW) -> str:
    path = folder / "flow.yaml"
    path.write_text(text.replace("NAME", name))
    return str(path)


def event(folder: pathlib.Path, data: object) -> str:
    path = folder / "event.json"
    path.write_text(json.dumps(data))
    return str(path)


def test_triggers_are_deployed_shown_paused_and_removed(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "starts")
    path = written(tmp_path, "starts")
    deploying = ("triggers", "deploy", path, "--key", "workflow starts")
    assert house.data(*deploying, "--dry-run")["triggers"] == ["api", "form", "webhook"]
    there = [one for one in house.data("triggers", "list")["triggers"] if one["flow"] == "starts"]
    assert there == [], "a dry run deploys nothing"
    told = house.run(*deploying)
    assert "/forms/trg_" in told and "/hooks/trg_" in told and "/v1/flows/starts/runs" in told
    listed = house.data("triggers", "list", "--project", "default")["triggers"]
    found = {one["kind"]: one for one in listed if one["flow"] == "starts"}
    assert set(found) == {"api", "form", "webhook"} and "shop-hook" in str(found["webhook"])
    assert {one["id"] for one in house.data(*deploying)["triggers"]} == {one["id"] for one in found.values()}
    hook = found["webhook"]["id"]
    assert "is paused" in house.run("triggers", "pause", hook) and "paused" in house.run("triggers", "list")
    assert house.data("triggers", "resume", hook)["trigger"]["enabled"] is True
    assert "no trigger" in house.run("triggers", "pause", "trg_none", code=2)
    assert "no project" in house.run("triggers", "list", "--project", "nulle part", code=2)
    house.run("triggers", "remove", "starts", "--project", "default")
    assert house.data("triggers", "list")["triggers"] == []
    assert "starts" in house.run("triggers", "remove", "starts", "--project", "default", code=2)


def test_an_event_is_tried_fired_once_and_a_wrong_one_is_kept_and_mended(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "fires")
    house.run("triggers", "deploy", written(tmp_path, "fires"), "--key", "workflow fires")
    (hook,) = [one["id"] for one in house.data("triggers", "list")["triggers"] if one["kind"] == "webhook"]
    good = event(tmp_path, {"body": {"kind": "order", "order": "7"}})
    tried = house.data("triggers", "test", hook, "--event", good)
    assert (tried["starts"], tried["inputs"]) == (True, {"order": "7"})
    assert "would start a run" in house.run("triggers", "test", hook, "--event", good)
    first = house.data("triggers", "fire", hook, "--event", good, "--id", "order-7")
    again = house.data("triggers", "fire", hook, "--event", good, "--id", "order-7")
    assert (first["outcome"], again["outcome"], again["run"]) == ("started", "known", first["run"])
    assert house.data("runs", "show", first["run"])["run"]["workflow"] == "fires"
    other = event(tmp_path, {"body": {"kind": "visit"}})
    assert house.data("triggers", "fire", hook, "--event", other)["outcome"] == "skipped"
    assert house.data("triggers", "test", hook, "--event", other)["starts"] is False
    wrong = event(tmp_path, {"body": {"kind": "order", "order": 7}})
    assert house.data("triggers", "fire", hook, "--event", wrong, code=1)["outcome"] == "failed"
    (letter,) = house.data("triggers", "failed")["failed"]
    assert (letter["data"]["body"], letter["tries"]) == ({"kind": "order", "order": 7}, 1)
    assert house.data("triggers", "retry", letter["id"], code=1)["outcome"] == "failed"
    lenient = FLOW.replace("{order: string}", "{order: 'string | integer'}")
    house.run("triggers", "deploy", written(tmp_path, "fires", lenient), "--key", "workflow fires")
    assert house.data("triggers", "retry", letter["id"])["outcome"] == "started"
    assert house.data("triggers", "failed")["failed"] == []
    house.run("triggers", "retry", letter["id"], "--drop", code=2)


def test_what_cannot_be_read_or_deployed_is_told_in_one_line(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "wrong")
    key = ("--key", "workflow wrong")
    plain = FLOW[: FLOW.index("triggers:")] + FLOW[FLOW.index("steps:") :]
    assert "has no triggers" in house.run("triggers", "deploy", written(tmp_path, "wrong", plain), *key, code=2)
    secret = FLOW.replace("shop-hook", "whsec_canari")
    told = house.run("triggers", "deploy", written(tmp_path, "wrong", secret), *key, code=2)
    assert "metier secret set" in told and "canari" not in told
    path = written(tmp_path, "wrong")
    assert "no key" in house.run("triggers", "deploy", path, "--key", "personne", code=2)
    for given in ("[1]", "{", "nowhere.json"):
        file = tmp_path / "nowhere.json" if given == "nowhere.json" else tmp_path / "given.json"
        if given != "nowhere.json":
            file.write_text(given)
        house.run("triggers", "fire", "trg_none", "--event", str(file), code=2)


MAILED = """
flow: mailed
schema: 1
inputs: {text: string, date: string, files: integer, problems: integer}
triggers:
  - email:
      mailbox: sav@exemple.fr
      with:
        text: "{{ event.text }}"
        date: "{{ event.date }}"
        files: "{{ size(event.files) }}"
        problems: "{{ size(event.problems) }}"
steps:
  - {id: note, emit: {event: mailed}, with: {text: "{{ inputs.text }}"}}
"""
MESSAGE = b"""From: Ada <ada@example.com>
To: sav@exemple.fr
Subject: Facture
Date: Fri, 20 Nov 2026 09:12:00 +0100
Message-ID: <1@example.com>
Content-Type: multipart/mixed; boundary=b

--b
Content-Type: text/plain

Bonjour
--b
Content-Type: text/plain
Content-Disposition: attachment; filename=facture.txt

42
--b--
"""


def test_an_email_tried_by_hand_gives_what_its_mailbox_would(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "mailed")
    (tmp_path / "m.eml").write_bytes(MESSAGE)
    (tmp_path / "none.eml").write_bytes(b"")
    (found,) = house.data("triggers", "deploy", written(tmp_path, "mailed", MAILED))["triggers"]
    eml = ("--eml", str(tmp_path / "m.eml"))
    tried = house.data("triggers", "test", found["id"], *eml)
    wanted = {"text": "Bonjour", "date": "2026-11-20T09:12:00+01:00", "files": 1, "problems": 0}
    assert tried["inputs"] == wanted and tried["once_for"].startswith("1@example.com:")
    assert [house.data("triggers", "fire", found["id"], *eml)["outcome"] for _ in range(2)] == ["started", "known"]
    assert "empty" in house.run("triggers", "test", found["id"], "--eml", str(tmp_path / "none.eml"), code=2)
    house.run("triggers", "remove", "mailed", "--project", "default")
