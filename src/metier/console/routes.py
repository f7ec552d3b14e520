"""The paths of the console: paths and names, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from starlette.routing import BaseRoute, Route

from metier.console.absence_page import AbsenceEnd, AbsencePage
from metier.console.asset import Asset
from metier.console.attempts import Attempts
from metier.console.delivery_settle import DeliverySettle
from metier.console.delivery_show import DeliveryShow
from metier.console.door import Door
from metier.console.rendering import Renderer
from metier.console.run_door import RunDoor
from metier.console.run_list import RunList
from metier.console.run_move import MOVES, RunMove
from metier.console.run_show import RunShow
from metier.console.services import ConsoleServices
from metier.console.session import Sessions
from metier.console.sign_in import SignIn
from metier.console.sign_out import SignOut
from metier.console.task_claim import TaskClaim
from metier.console.task_comment import TaskComment
from metier.console.task_decide import TaskDecide
from metier.console.task_hand_off import TaskHandOff
from metier.console.task_link import TaskLink
from metier.console.task_list import TaskList
from metier.console.task_release import TaskRelease
from metier.console.task_show import TaskShow

__all__ = ["pages"]


def pages(app: ConsoleServices, *, now: Callable[[], float] = time.time) -> list[BaseRoute]:
    """List the pages where people sign in, read tasks and decide them; they work without JavaScript."""
    sessions = Sessions(app.vault, now)
    renderer = Renderer(sessions, lambda: datetime.fromtimestamp(now(), UTC))
    door = Door(app.keys, app.review.links, sessions, renderer, app.settings.lang)
    show = TaskShow(app.review, app.ledger, renderer)
    task, members, guests = "/review/tasks/{task}", door.members, door.guests
    delivery = "/review/deliveries/{delivery}"
    link = TaskLink(app.review, app.review.links, door, renderer)
    looks_after = RunDoor(app.keys, app.engine)
    run = RunShow(looks_after, app.engine, app.operations, renderer)
    sign_in = SignIn(app.keys, door, renderer, Attempts(now))
    return [
        Route("/review", members(TaskList(app.review, app.deliveries, renderer)), methods=["GET"]),
        Route("/review/sign-in", guests(sign_in), methods=["POST"]),
        Route("/review/sign-out", members(SignOut(door, renderer)), methods=["POST"]),
        Route("/review/static/{name}", guests(Asset(renderer)), methods=["GET"]),
        Route(delivery, members(DeliveryShow(app.deliveries, renderer)), methods=["GET"]),
        Route(f"{delivery}/settle", members(DeliverySettle(app.deliveries, renderer)), methods=["POST"]),
        Route("/review/absences", members(AbsencePage(app.review, renderer)), methods=["GET", "POST"]),
        Route("/review/absences/{absence}/end", members(AbsenceEnd(app.review, renderer)), methods=["POST"]),
        Route("/review/links/{link}", guests(link), methods=["GET", "POST"]),
        Route("/review/runs", members(RunList(looks_after, app.engine, renderer)), methods=["GET"]),
        Route("/review/runs/{run}", members(run), methods=["GET"]),
        *(
            Route(
                f"/review/runs/{{run}}/{what}",
                members(RunMove(what, looks_after, app.engine, app.operations, run, renderer)),
                methods=["POST"],
            )
            for what in MOVES
        ),
        Route(task, members(show), methods=["GET"]),
        Route(f"{task}/claim", members(TaskClaim(app.review, renderer)), methods=["POST"]),
        Route(f"{task}/comment", members(TaskComment(app.review, show, renderer)), methods=["POST"]),
        Route(f"{task}/decide", members(TaskDecide(app.review, show, renderer)), methods=["POST"]),
        Route(f"{task}/hand-off", members(TaskHandOff(app.review, show, renderer)), methods=["POST"]),
        Route(f"{task}/release", members(TaskRelease(app.review, renderer)), methods=["POST"]),
    ]
