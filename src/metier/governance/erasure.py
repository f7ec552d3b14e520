"""Ties what the rooms keep of people into the one erasure: placeholders and kept answers beside contents."""

from __future__ import annotations

from metier.cache.entries import Purge
from metier.gateway import Gateway
from metier.guardrails.pii.guardrail import PersonalData
from metier.record.erasure import Erasure, Target

__all__ = ["reach"]


def reach(erasure: Erasure, personal_data: PersonalData, gateway: Gateway) -> None:
    """Have an erasure go through the tables of placeholders, and through the answers of the cache of a gateway.

    Files and batches are not among them: they belong to the project that brought them, which deletes them.
    """

    async def conversations(target: Target, by: str, dry_run: bool) -> int:
        if dry_run:
            return await personal_data.remembered(target.conversations)
        return await personal_data.forget(target.conversations)

    erasure.also("conversations", conversations)
    if gateway.cache is None:
        return
    entries = gateway.cache.entries

    async def answers(target: Target, by: str, dry_run: bool) -> int:
        criteria = Purge(
            organisation=target.organisation,
            project=target.project,
            person=bytes.fromhex(target.person) if target.person else None,
            call=target.call,
        )
        return await entries.count(criteria) if dry_run else await entries.purge(criteria, by)

    erasure.also("kept_answers", answers)
