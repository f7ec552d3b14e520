"""`metier review settle`: a mail server cuts the line after DATA, the operator finds out, the run goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import pwd
import threading
from collections.abc import Iterator

from click.testing import CliRunner

from metier.cli import main
from tests.cli.house import House
from tests.cli.test_flows import allowed, worked, written
from tests.connectors.mailserver import Server, serving

LETTER = """
flow: NAME
schema: 1
inputs: {to: string}
steps:
  - id: send
    tool: email.send
    with: {to: "{{ inputs.to }}", subject: "[bold]Votre colis", body: "Il part demain."}
    output: {message_id: string}
output: "{{ steps.send.message_id }}"
"""
CLIENT = "claire.vasseur@courriel.example"


@contextlib.contextmanager
def mail_server(server: Server) -> Iterator[dict[str, str]]:
    """Open a mail server in a thread of its own, and give the variables that lead commands to it."""
    ready, ports = threading.Event(), list[int]()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def work() -> None:
        async with serving(server) as account:
            ports.append(account.port)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(work(),))
    thread.start()
    assert ready.wait(60)
    try:
        yield {"METIER_SMTP_URL": f"smtp://127.0.0.1:{ports[0]}", "METIER_MAIL_FROM": "sav@exemple.fr"}
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


def test_an_email_in_doubt_is_shown_and_settled_from_the_command_line(house: House, tmp_path: pathlib.Path) -> None:
    allowed(house, "doute")
    server = Server("250 then cut", "cut")
    account = pwd.getpwuid(os.geteuid()).pw_name
    with mail_server(server) as env:
        path = written(tmp_path, "doute", LETTER)
        for number, found in ((1, "--delivered"), (2, "--send-again")):
            run = house.data("run", path, f"to={CLIENT}", code=1, env=env)["run"]["id"]
            key = f"{run}/send"
            assert key in house.run("review", "list") and f"metier review settle {key}" in house.run(
                "runs", "show", run
            )
            (listed,) = (each for each in house.data("review", "list")["deliveries"] if each["run"] == run)
            assert (listed["recipient"], listed["state"]) == (CLIENT, "unsure")
            shown = house.run("review", "settle", key)
            assert "[bold]Votre colis" in shown and "Il part demain." in shown and listed["message_id"] in shown
            assert house.data("review", "settle", listed["message_id"])["delivery"]["doubtful"] is True
            assert "--yes" in house.run("review", "settle", key, found, "--json", code=2)
            refused = CliRunner().invoke(
                main, ["review", "settle", key, found], input="n\n", env={**house.environment, **env}
            )
            assert refused.exit_code == 0 and "Nothing was changed" in refused.output and CLIENT in refused.output
            settled = house.data("review", "settle", key, found, "--yes")["delivery"]
            assert (settled["settled_by"], settled["doubtful"]) == (f"{account} (local)", False)
            again = house.run("review", "settle", key, "--send-again", "--yes", code=2)
            assert "conflict" in again and account in again
            worked(house, run, "done", env)
            assert len(server.taken) == number
            told = house.run("runs", "show", run)
            assert f"settled as {settled['settled_as']} by {account} (local)" in told and CLIENT not in told
            assert CLIENT in house.run("runs", "show", run, "--clear")
    assert key not in house.run("review", "list")
