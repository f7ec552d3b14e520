"""`metier serve` as a process: it says where it listens, answers, refuses properly, and stops in order."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import pathlib
import signal
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
import yaml
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from metier.cli.serving import IDLE_S
from tests.cli.house import House
from tests.cli.served import METIER, SAY, ask, declared, get, key, running, serving
from tests.record.test_otel import PARENT, TRACE, collecting
from tests.upstream import Reply, answer, upstream


@pytest.fixture
def secret(house: House, request: pytest.FixtureRequest) -> str:
    """A key of its own for each test."""
    return key(house, f"servi {request.node.name}")


async def test_an_empty_house_answers_and_refuses_properly(house: House, secret: str) -> None:
    with serving(house) as served:
        assert served.models == []
        assert (await get(f"{served.url}/healthz"))[0] == 200
        status, told = await get(f"{served.url}/readyz")
        assert (status, json.loads(told)) == (
            503,
            {"status": "not ready", "parts": {"database": True, "models": False, "records": True}},
        )
        status, body = await ask(served.url, secret)
        assert (status, body["error"]["code"]) == (404, "not_found")
        assert "'writer'" in body["error"]["message"]
        assert (await ask(served.url, None))[0] == 401
        assert (await ask(served.url, "sk-mt-nobody-nothing"))[0] == 401
        assert (await get(f"{served.url}/review"))[0] in (200, 302, 303)
        status, told = await get(f"{served.url}/")
        assert (status, json.loads(told)["pages"]) == (200, "/review")


async def test_a_declared_model_is_ready_and_answers_until_the_key_is_revoked(
    house: House, secret: str, tmp_path: pathlib.Path
) -> None:
    async with upstream(Reply([answer("Bonsoir")])) as model:
        own = {"provider": "openai", "base_url": model.url, "model_id": "m", "price": {"input": 1, "output": 4}}
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump({"models": {"writer": {"deployments": [own]}}}))
        with serving(house, METIER_CONFIG=str(config)) as served:
            assert served.models == ["writer"]
            assert (await get(f"{served.url}/readyz"))[0] == 200
            status, body = await ask(served.url, secret)
            assert (status, body["choices"][0]["message"]["content"]) == (200, "Bonsoir")


async def test_a_call_in_progress_ends_before_the_server_stops(
    house: House, secret: str, tmp_path: pathlib.Path
) -> None:
    whole, asked_to_stop = answer("Bonsoir", " à tous"), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(whole[:200])
        await asked_to_stop.wait()
        await response.write(whole[200:])
        return response

    async with running(slow) as url:
        own = {"provider": "openai", "base_url": url, "model_id": "m", "price": {"input": 1, "output": 4}}
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump({"models": {"writer": {"deployments": [own]}}}))
        with serving(house, METIER_CONFIG=str(config)) as served:
            async with aiohttp.ClientSession(headers={"authorization": f"Bearer {secret}"}) as session:
                posted = session.post(f"{served.url}/v1/chat/completions", json={**SAY, "stream": True})
                async with posted as response:
                    assert b"Bonsoir" in await response.content.readuntil(b"Bonsoir")
                    served.process.send_signal(signal.SIGTERM)
                    asked_to_stop.set()
                    rest = (await response.read()).decode()
            assert "à tous" in rest and rest.rstrip().endswith("data: [DONE]")
            await asyncio.to_thread(served.process.wait, 60)


def test_a_port_that_is_taken_is_told(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [METIER, "serve", "--port", port], env={**house.environment, "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert port in done.stderr and "Ready" not in done.stdout


def test_an_address_that_is_none_is_told(house: House) -> None:
    assert "127.0.0.1" in house.run("serve", "--host", "example", code=2)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_keys_do_not_cross_a_network_in_the_clear_unasked(house: House, host: str) -> None:
    for workers in ("1", "2"):
        told = house.run("serve", "--host", host, "--workers", workers, code=2)
        assert "--behind-proxy" in told and "--tls-cert" in told and "--cleartext" in told


def test_an_idle_connection_lives_longer_here_than_in_the_proxy() -> None:
    shipped = (pathlib.Path(__file__).parents[2] / "deploy" / "nginx" / "metier.conf").read_text()
    upstream_block = shipped[shipped.index("upstream") : shipped.index("server {")]
    # nginx keeps a connection for 60 s where nothing else is said; a call sent on one we have just closed is a 502.
    assert "keepalive " in upstream_block and "keepalive_timeout" not in upstream_block
    assert IDLE_S > 60


def test_tls_needs_both_files(house: House, tmp_path: pathlib.Path) -> None:
    there = tmp_path / "cert.pem"
    there.write_text("")
    assert "--tls-key" in house.run("serve", "--host", "0.0.0.0", "--tls-cert", str(there), code=2)
    absent = str(tmp_path / "none.pem")
    assert "none.pem" in house.run("serve", "--tls-cert", str(there), "--tls-key", absent, code=2)


async def test_a_yes_opens_the_port_to_others(house: House) -> None:
    for option in ("--cleartext", "--behind-proxy"):
        with serving(house, "--host", "0.0.0.0", option) as served:
            url = served.url.replace("0.0.0.0", "127.0.0.1")
            assert (await get(f"{url}/healthz"))[0] == 200
            metrics = await get(f"{url}/metrics")
            # Behind a proxy everything comes from this machine, which then means nothing.
            assert metrics[0] == (200 if option == "--cleartext" else 401)


def test_stopping_as_soon_as_it_is_ready_is_stopping(house: House) -> None:
    for _ in range(3):
        with serving(house, "--notice", "0"):
            pass


async def test_tls_can_end_here(house: House, tmp_path: pathlib.Path) -> None:
    certificate, private = own_certificate(tmp_path)
    with serving(house, "--tls-cert", str(certificate), "--tls-key", str(private)) as served:
        assert served.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{served.url}/healthz", ssl=trusted) as response,
        ):
            assert response.status == 200


def own_certificate(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A certificate for this machine that vouches for itself, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "metier.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(private, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


async def test_a_call_is_a_span_in_the_trace_of_its_client(house: House, secret: str, tmp_path: pathlib.Path) -> None:
    async with upstream(Reply([answer("Bonsoir")])) as model, collecting() as collector:
        config = tmp_path / "metier.yaml"
        config.write_text(yaml.safe_dump(declared(model.url)))
        with serving(house, METIER_CONFIG=str(config), METIER_OTLP_URL=collector.url) as served:
            headers = {"authorization": f"Bearer {secret}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(f"{served.url}/v1/chat/completions", json=SAY) as response,
            ):
                assert response.status == 200
            assert (await ask(served.url, secret))[0] == 200
            # What waits is sent at the end.
            served.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(served.process.wait, 60)
        first, second = collector.spans
        assert (first["traceId"], first["parentSpanId"]) == (TRACE, PARENT)
        assert second["traceId"] != TRACE
        assert secret.encode() not in collector.raw and b"Bonjour" not in collector.raw
