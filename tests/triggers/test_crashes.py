"""Processes that run sources are killed -9 at every boundary: each event starts one run, and another takes over."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import secrets
import subprocess
import sys

import pytest

from metier.calls import JSON
from metier.store import Store
from metier.triggers import Haste
from metier.vault import Vault
from metier.workflow.shape import Trigger
from tests.triggers.crashing import POINTS
from tests.triggers.dovecot import Dovecot
from tests.triggers.house import House, trigger, triggered
from tests.triggers.test_mailbox import message

# A part of these waits is for the dead to be missed: on a busy machine that takes minutes.
pytestmark = pytest.mark.timeout(600)
ROOT = pathlib.Path(__file__).parents[2]
EVENTS = 8


async def killed_everywhere(house: House, key: bytes, folder: pathlib.Path, given: dict[str, JSON], two: bool) -> None:
    """Let processes die at every place of the plan and be replaced, until every event has its run."""
    folder.mkdir()
    (folder / "given.json").write_text(json.dumps(given))
    command = [sys.executable, "-m", "tests.triggers.crashing", house.store.url, key.hex(), str(folder)]
    running: list[subprocess.Popen[bytes]] = []
    try:
        async with asyncio.timeout(540):
            while True:
                running = [process for process in running if process.poll() is None]
                while len(running) < 1 + two:
                    running.append(await asyncio.to_thread(subprocess.Popen, command, cwd=ROOT))
                died = all((folder / f"died-{point}").exists() for point in POINTS)
                if died and await house.count() >= EVENTS and await noted(house) >= EVENTS:
                    return
                await asyncio.sleep(0.1)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)


async def noted(house: House) -> int:
    (found,) = await house.triggers.deployments.list()
    return found.taken


async def checked(
    store: Store, tmp_path: pathlib.Path, made: Trigger, secrets_: dict[str, str], ca_file: str | None, two: bool
) -> House:
    key = secrets.token_bytes(32)
    house = House(store, Vault(key))
    await house.deploy(triggered(made))
    given: dict[str, JSON] = {"secrets": dict(secrets_), "ca_file": ca_file}
    await killed_everywhere(house, key, tmp_path / "plan", given, two)
    assert await house.count() == EVENTS
    assert await house.triggers.intake.letters() == []
    return house


@pytest.mark.parametrize("two", [False, True], ids=["one worker", "two workers"])
async def test_each_message_starts_one_run_wherever_a_process_dies(
    store: Store, tmp_path: pathlib.Path, mailserver: Dovecot, two: bool
) -> None:
    user = f"u{secrets.token_hex(5)}"
    mailserver.put(*(message(n) for n in range(EVENTS)), user=user)
    config: dict[str, JSON] = {"mailbox": "support", "existing": True, "after": "move", "done": "Done"}
    made = trigger("email", config, {"subject": "{{ event.subject }}"})
    house = await checked(store, tmp_path, made, {"support": mailserver.url(user)}, mailserver.ca_file, two)
    assert sorted(str(run["subject"]) for run in await house.runs()) == [f"Commande {n}" for n in range(EVENTS)]


async def test_each_file_starts_one_run_wherever_a_process_dies(store: Store, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(EVENTS):
        (folder / f"{number}.txt").write_text(f"lettre {number}")
    made = trigger("folder", {"path": str(folder), "poll": "50ms"}, {"text": "{{ event.text }}"})
    house = await checked(store, tmp_path, made, {}, None, True)
    assert sorted(str(run["text"]) for run in await house.runs()) == [f"lettre {n}" for n in range(EVENTS)]


async def test_one_process_holds_a_trigger_and_another_takes_over_once_it_is_silent(
    store: Store, vault: Vault, tmp_path: pathlib.Path
) -> None:
    house = House(store, vault)
    id = await house.deploy(triggered(trigger("folder", {"path": str(tmp_path), "poll": "50ms"})))
    haste = Haste(lease_s=60.0, beat_s=0.1)
    async with house.working(haste), house.working(haste):
        (tmp_path / "a.txt").write_text("a")
        await house.until(1)
        first = (await house.triggers.deployments.get(id)).holder
        for _ in range(10):
            assert (await house.triggers.deployments.get(id)).holder == first
            await asyncio.sleep(0.05)
    async with store.connection() as connection:
        # As a process leaves it that was killed: held, and renewed by nobody.
        await connection.execute(
            "UPDATE triggers SET holder = 'dead', held_until = now() + interval '0.5 s', epoch = epoch + 1"
        )
    (tmp_path / "b.txt").write_text("b")
    async with house.working(haste):
        await house.until(2)
        assert (await house.triggers.deployments.get(id)).holder not in (None, "dead", first)
    assert Haste().lease_s + Haste().beat_s <= 30
    await house.triggers.deployments.enable(id, False)
    async with house.working(haste):
        await asyncio.sleep(0.4)
        assert (await house.triggers.deployments.get(id)).holder is None
