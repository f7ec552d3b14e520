"""`metier models choose`: which model of metier.yaml suits a task, with the reasons."""

from __future__ import annotations

from dataclasses import asdict

import click

from metier.catalog import Catalog
from metier.cli.terminal import Terminal, as_json_option, without_platform
from metier.deployment import SENSITIVITIES
from metier.selection import Candidate, Question, rank
from metier.settings import Settings
from metier.ways import typical_carbon

__all__ = ["choose"]


@click.command()
@click.option("--task", default="", help="Name of the task its quality was measured on (`quality:` of a model).")
@click.option("--own-documents", is_flag=True, help="The answers are in your documents.")
@click.option("--general-knowledge", is_flag=True, help="The task needs what the model itself knows of the world.")
@click.option("--sensitivity", type=click.Choice(SENSITIVITIES), default="internal", show_default=True)
@click.option("--country", "countries", multiple=True, help="Data may go there only; repeat it.")
@click.option("--language", "languages", multiple=True, help="Language it must be good in, such as fr; repeat it.")
@click.option("--takes", multiple=True, type=click.Choice(["image", "audio", "document"]), help="Beside text.")
@click.option("--tools", is_flag=True, help="It must call tools.")
@click.option("--structured", is_flag=True, help="Its answers must fit a JSON Schema.")
@click.option("--input-tokens", default=1_500, show_default=True, help="Of a typical call.")
@click.option("--output-tokens", default=300, show_default=True, help="Of a typical call.")
@click.option("--calls", default=1_000, show_default=True, help="Calls a month.")
@click.option(
    "--weigh", type=click.Choice(["balanced", "quality", "cost", "carbon"]), default="balanced", show_default=True,
    help="What counts thrice.",
)  # fmt: skip
@as_json_option
def choose(as_json: bool, **answers: object) -> None:
    """Rank the models of metier.yaml for a task, with reasons.

    What nobody has measured is said to be not measured: try the first two on your own cases before you decide.
    """
    given = {
        name: frozenset(value) or (frozenset() if name == "takes" else None) if isinstance(value, tuple) else value
        for name, value in answers.items()
    }
    question = Question(**given)  # type: ignore[arg-type]  # click has checked every value

    async def work(settings: Settings, terminal: Terminal) -> None:
        catalog = Catalog.from_yaml(settings.config.get("models") or {}, settings.config.get("eur_per_usd"))
        ranking = rank(catalog, question, typical_carbon)
        terminal.data({"question": asdict(question), "ranking": [asdict(candidate) for candidate in ranking]})
        terminal.table(
            ["", "model", "score", "quality", "€ a month", "g CO2e a call", "window", "why"],
            [_line(place, candidate) for place, candidate in enumerate(ranking, 1)],
            title="For this task",
        )
        if not ranking:
            terminal.say(f"There is no chat model in {settings.config_path}: declare one under `models:`.")

    without_platform(work, as_json=as_json)


def _line(place: int, candidate: Candidate) -> list[str]:
    why = "\n".join(candidate.reasons)
    if not candidate.fits:
        return ["no", candidate.model, "", "", "", "", "", why]
    return [
        str(place),
        candidate.model,
        f"{candidate.score:.2f}",
        "not measured" if candidate.quality is None else f"{candidate.quality:.2f}",
        "unknown" if candidate.month_eur is None else f"{candidate.month_eur:.2f}",
        "not estimated" if candidate.carbon_g is None else f"{candidate.carbon_g:.2g}",
        "not declared" if candidate.window is None else str(candidate.window),
        why,
    ]
