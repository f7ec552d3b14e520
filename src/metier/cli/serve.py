"""`metier serve`: the gateway, the review page, and workflows, in one process or in several that share a port."""

from __future__ import annotations

import importlib

import click

from metier import settings as configuration
from metier.cli.listening import Service
from metier.cli.supervisor import supervise
from metier.errors import MetierError

__all__ = ["command"]


@click.command()
@click.option("--host", help="Address to listen on; by default METIER_HOST, 127.0.0.1.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; by default METIER_PORT, 8400.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True,
    help="Processes that share the port; one for each core that is to serve calls.",
)  # fmt: skip
@click.option("--work/--no-work", default=True, show_default=True, help="Also run workflows in these processes.")
@click.option(
    "--behind-proxy", is_flag=True,
    help="A proxy in front ends TLS; what comes from this machine is then no longer taken for its own.",
)  # fmt: skip
@click.option("--tls-cert", metavar="FILE", help="Certificate in PEM, to end TLS here; read again at every restart.")
@click.option("--tls-key", metavar="FILE", help="Its private key in PEM.")
@click.option("--cleartext", is_flag=True, help="Accept another address than this machine's without any TLS.")
@click.option(
    "--notice", type=click.FloatRange(0, 300), default=1.0, show_default=True,
    help="Seconds for which /readyz says 503 before the port closes, at SIGTERM.",
)  # fmt: skip
@click.option(
    "--patience", type=click.FloatRange(0, 3600), default=20.0, show_default=True,
    help="Seconds that calls under way may still take after that.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def command(workers: int, host: str | None, port: int | None, notice: float, patience: float, **given: object) -> None:
    """Start the gateway and the review page, until Ctrl-C.

    Clients speak the OpenAI API with a virtual key: base URL http://HOST:PORT/v1. The review page is at /review; it is
    opened with a key too. SIGHUP reads metier.yaml again; with several workers it replaces them one after the other.

    Examples: metier serve

    metier serve --host 0.0.0.0 --workers 4 --behind-proxy
    """
    # Given by name to keep the list of parameters short; the names are those of the fields.
    fields = {name: value for name, value in given.items() if value is not None}
    try:
        settings = configuration.load()
        listened = {"host": host or settings.host, "port": settings.port if port is None else port}
        service = Service(**listened, notice_s=notice, patience_s=patience, **fields)  # type: ignore[arg-type]  # click has checked them
        service.check()
    except MetierError as error:
        terminal = importlib.import_module("metier.cli.terminal")
        terminal.fail(terminal.Terminal(bool(given["as_json"])), error)
    if workers == 1:
        # The process above several workers never loads what they serve with: it stays small.
        importlib.import_module("metier.cli.serving").alone(service)
        return
    try:
        code = supervise(service, workers, settings.log_level)
    except MetierError as error:
        terminal = importlib.import_module("metier.cli.terminal")
        terminal.fail(terminal.Terminal(service.as_json), error)
    raise SystemExit(code)
