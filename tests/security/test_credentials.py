"""Whatever stands where a key should: refused as a stranger, compared in constant time, never a failure of ours."""

from __future__ import annotations

import hmac
import pathlib
import random
import secrets
from collections.abc import AsyncIterator
from typing import Final

import orjson
import pytest

from metier.errors import NotAuthenticated
from metier.store import Store
from tests.security.house import House, house, populate, send

PATHS: Final = (("POST", "/v1/chat/completions"), ("POST", "/v1/messages"), ("GET", "/v1/models"), ("GET", "/v1/files"))
NAMES: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
CHAT: Final = orjson.dumps({"model": "petit", "messages": [{"role": "user", "content": "Bonjour"}]})


@pytest.fixture
async def here(store: Store, tmp_path: pathlib.Path) -> AsyncIterator[House]:
    """The platform with keys in every state."""
    async with house(tmp_path, store) as made:
        await populate(made)
        yield made


def odd(chance: random.Random, right: bytes) -> bytes:
    """Something that is nearly a key, or nothing like one."""
    shapes = (
        lambda: chance.randbytes(chance.randrange(0, 80)),
        lambda: b"Bearer " + chance.randbytes(chance.randrange(0, 80)),
        lambda: b"Bearer sk-mt-" + bytes(chance.choices(range(33, 127), k=chance.randrange(0, 300))),
        lambda: b"Bearer " + right[: chance.randrange(len(right))],
        lambda: b"Bearer " + right + bytes(chance.choices(range(256), k=chance.randrange(1, 5))),
        lambda: b"Bearer " + right.replace(b"-", chance.choice((b"\0", b"\xc3\xa9", b"%2d", b"\r\n", b"--", b"\t"))),
        lambda: b"Bearer " + right.upper(),
        lambda: chance.choice((b"Basic ", b"Negotiate ", b"bearer", b"Bearer\xa0", b"Bearer=", b"")) + right[:-1],
        lambda: b"Bearer sk-mt-' OR 1=1 --" + chance.randbytes(4),
        lambda: "Bearer sk-mt-١٢٣-é𝟘".encode(),
        lambda: b"Bearer sk-mt-0-" + b"a" * chance.choice((1, 200, 8_000, 60_000)),
        lambda: b"Bearer " + right.replace(b"sk-mt-", b"sk-mt-\xb2"),
    )
    return chance.choice(shapes)()


async def test_no_header_is_a_failure_and_none_is_taken_for_a_key(here: House) -> None:
    chance, right = random.Random(20261121), here.keys["right"].secret.encode()
    for turn in range(600):
        method, path = PATHS[turn % len(PATHS)]
        headers = [(chance.choice(NAMES), odd(chance, right)) for _ in range(chance.choice((1, 1, 1, 2, 5)))]
        answer = await send(here.asgi, method, path, CHAT if method == "POST" else b"", headers)
        assert answer.status == 401, (headers, answer.status, answer.body)
        error = answer.json["error"]
        assert error["message"] and right not in answer.whole
        assert not any(b"\r" in value or b"\n" in value for _, value in answer.headers)


async def test_hundreds_of_headers_are_no_failure(here: House) -> None:
    many = [(b"x-" + str(number).encode(), b"v" * 100) for number in range(500)]
    wrong = [(b"authorization", b"Bearer sk-mt-%d-x" % number) for number in range(200)]
    for headers in (many, wrong, [*many, *wrong], [(b"cookie", b"a=b; " * 5_000)]):
        for path in ("/v1/models", "/review"):
            assert (await send(here.asgi, "GET", path, headers=headers)).status < 500


@pytest.mark.parametrize("name", NAMES)
async def test_a_header_of_a_key_that_comes_twice_is_refused_whichever_is_right(here: House, name: bytes) -> None:
    prefix = b"Bearer " if name == b"authorization" else b""
    right = (name, prefix + here.keys["right"].secret.encode())
    other = (name, prefix + here.keys["foreign"].secret.encode())
    assert (await send(here.asgi, "GET", "/v1/models", headers=[right])).status == 200
    for headers in ([right, other], [other, right], [right, right], [right, (name, b"")], [(name, b""), right]):
        refused = await send(here.asgi, "GET", "/v1/models", headers=headers)
        assert refused.status == 401 and "once" in refused.json["error"]["message"]


async def test_two_different_keys_are_never_the_right_one_by_half(here: House) -> None:
    right, foreign = here.keys["right"].secret, here.keys["foreign"].secret
    halves = f"{right.rpartition('-')[0]}-{foreign.split('-', 3)[3]}"
    swapped = f"sk-mt-{right.split('-')[2]}-{foreign.split('-', 3)[3]}"
    for key in (halves, swapped, f"{right},{foreign}", f"{right} {foreign}"):
        headers = [(b"authorization", f"Bearer {key}".encode())]
        assert (await send(here.asgi, "GET", "/v1/models", headers=headers)).status == 401


@pytest.mark.parametrize("what", ["unknown id", "known id", "revoked id"])
async def test_a_wrong_secret_is_compared_in_constant_time_whoever_it_names(
    here: House, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    names = {"known id": here.keys["right"].key.id, "revoked id": here.keys["revoked"].key.id}
    public = names.get(what, secrets.token_hex(6))
    await here.app.keys.refresh()
    monkeypatch.setattr(hmac, "compare_digest", counted)
    with pytest.raises(NotAuthenticated) as refused:
        await here.app.keys.authenticate(f"sk-mt-{public}-{secrets.token_urlsafe(32)}")
    # The digest of now and the one before a rotation, both of 32 bytes: the same work for everybody.
    assert compared == [(32, 32), (32, 32)]
    assert public not in str(refused.value)


async def test_what_a_wrong_secret_is_told_does_not_say_whether_the_key_exists(here: House) -> None:
    told = set()
    for public in (secrets.token_hex(6), *(issued.key.id for issued in here.keys.values())):
        headers = [(b"authorization", f"Bearer sk-mt-{public}-{secrets.token_urlsafe(32)}".encode())]
        answer = await send(here.asgi, "GET", "/v1/models", headers=headers)
        told.add((answer.status, answer.body))
    assert len(told) == 1
