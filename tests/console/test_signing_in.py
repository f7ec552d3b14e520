"""Who gets in, for how long, from where; and what every answer carries."""

from __future__ import annotations

import re

import pytest

from metier.console.attempts import Attempts
from metier.console.session import LASTS_S, Sessions
from metier.errors import RateLimited
from metier.vault import Vault
from tests.console.desk import Browser, Office, approval


def cookies(browser: Browser) -> dict[str, str]:
    return {cookie.key: cookie.value for cookie in browser.client.cookie_jar}


async def test_a_key_opens_the_list_and_signing_out_closes_it(here: Office) -> None:
    await here.park(approval())
    async with here.browser() as browser:
        first = await browser.get("/review")
        assert first.status == 200 and "Votre clé" in first.text and "Retour" not in first.text
        listed = await browser.post("/review/sign-in", key=f"  {here.issued['zoe'].secret}\n")
        assert (listed.status, listed.url) == (200, "/review")
        assert "Valider : Retour" in listed.text and "zoe" in listed.text
        out = await browser.post("/review/sign-out")
        assert "Votre clé" in out.text and "metier_session" not in cookies(browser)


async def test_the_cookie_names_the_key_and_holds_no_secret(here: Office) -> None:
    issued = here.issued["zoe"]
    async with here.browser() as browser:
        page = await browser.get("/review")
        data = {"token": page.token, "key": issued.secret}
        async with browser.client.post(f"{here.url}/review/sign-in", data=data, allow_redirects=False) as answer:
            assert answer.status == 303
            (cookie,) = [one for one in answer.headers.getall("set-cookie") if one.startswith("metier_session=")]
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/review", f"Max-Age={LASTS_S}"):
        assert attribute in cookie
    assert "Secure" not in cookie, "this server speaks plain HTTP"
    secret = issued.secret.removeprefix(f"sk-mt-{issued.key.id}-")
    assert secret not in cookie and issued.key.id in cookie


async def test_behind_https_every_cookie_is_secure(here: Office) -> None:
    async with here.browser(X_Forwarded_Proto="https") as browser:
        page = await browser.get("/review")
        assert "Secure" in page.headers["set-cookie"]


@pytest.mark.parametrize("key", ["", "sk-mt-abc-def", "<script>", "é" * 500])
async def test_a_wrong_key_is_told_so_and_the_form_comes_back(here: Office, key: str) -> None:
    async with here.browser(Accept_Language="en") as browser:
        await browser.get("/review")
        page = await browser.post("/review/sign-in", key=key)
        assert page.status == 401 and "This key is not good" in page.text
        assert "metier_session" not in cookies(browser) and 'role="alert"' in page.source
        assert not key or key not in page.source


async def test_a_revoked_key_ends_its_session_at_once(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as browser:
        assert (await browser.get(f"/review/tasks/{task.id}")).status == 200
        await here.keys.revoke(here.issued["zoe"].key.id, "Camille")
        ended = await browser.post(f"/review/tasks/{task.id}/decide", decision="approve")
        assert ended.status == 401 and "Votre session est terminée" in ended.text
        assert (await browser.get("/review")).status == 401
        again = await browser.post("/review/sign-in", key=here.issued["zoe"].secret)
        assert again.status == 401
    assert (await here.review.get(task.id)).state == "open"


async def test_a_session_ends_after_its_hours_and_one_returns_to_the_page_asked_for(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as browser:
        here.clock[0] += LASTS_S - 60
        assert (await browser.get(f"/review/tasks/{task.id}")).status == 200
        here.clock[0] += 120
        asked = await browser.get(f"/review/tasks/{task.id}")
        assert asked.status == 401 and task.title not in asked.text
        after = re.search(r'name="after" value="([^"]+)"', asked.source)
        assert after is not None
        page = await browser.post("/review/sign-in", key=here.issued["zoe"].secret, after=after[1])
        assert (page.status, page.url) == (200, f"/review/tasks/{task.id}")


@pytest.mark.parametrize("after", ["https://evil.example", "//evil.example/review", "/v1/models", "/review/../x", "\\"])
async def test_signing_in_never_leads_elsewhere(here: Office, after: str) -> None:
    async with here.browser() as browser:
        await browser.get("/review")
        page = await browser.post("/review/sign-in", key=here.issued["zoe"].secret, after=after)
        assert (page.status, page.url) == (200, "/review")


async def test_an_altered_cookie_is_nobody(here: Office) -> None:
    async with here.browser("zoe") as browser:
        whole = cookies(browser)["metier_session"]
        other = here.issued["eve"].key.id
        key, expires, nonce, signature = whole.split(".")
        forged = [
            f"{other}.{expires}.{nonce}.{signature}",
            f"{key}.{int(expires) + 1}.{nonce}.{signature}",
            whole[:-2],
            cookies(browser)["metier_guest"],
            "...",
            "x" * 5000,
        ]
    for value in forged:
        async with here.browser() as browser:
            page = await browser.get("/review", Cookie=f"metier_session={value}")
            assert page.status == 401 and "Votre clé" in page.text


async def test_a_form_without_its_token_does_nothing(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser("zoe") as browser, here.browser("max") as other:
        theirs = (await other.get("/review")).token
        await browser.get("/review")
        for token in ("", "x", theirs, "é"):
            page = await browser.post(f"/review/tasks/{task.id}/decide", token=token, decision="approve")
            assert page.status == 403 and "formulaire est trop ancien" in page.text
            assert (await browser.post("/review/sign-out", token=token)).status == 403
        mine = (await browser.get("/review")).token
        async with browser.client.post(
            f"{here.url}/review/tasks/{task.id}/claim", data={"token": mine}, headers={"sec-fetch-site": "cross-site"}
        ) as answer:
            assert answer.status == 403
        async with browser.client.post(f"{here.url}/review/tasks/{task.id}/claim", json={"token": mine}) as answer:
            assert answer.status == 400
        assert (await here.review.get(task.id)).state == "open"
    async with here.browser() as stranger:
        assert (await stranger.post("/review/sign-in", key=here.issued["zoe"].secret, token="")).status == 403


async def test_a_link_on_another_site_opens_the_page_in_one_more_step(here: Office) -> None:
    async with here.browser() as browser:
        page = await browser.get("/review", Sec_Fetch_Site="cross-site")
        assert page.status == 200 and 'http-equiv="refresh"' in page.source and "key" not in page.source


async def test_too_many_wrong_keys_are_slowed_down(here: Office) -> None:
    async with here.browser() as browser:
        await browser.get("/review")
        for _ in range(10):
            assert (await browser.post("/review/sign-in", key="sk-mt-a-b")).status == 401
        slow = await browser.post("/review/sign-in", key=here.issued["zoe"].secret)
        assert slow.status == 429 and "Trop d'essais" in slow.text
        here.clock[0] += 301
        assert (await browser.post("/review/sign-in", key=here.issued["zoe"].secret)).status == 200


def test_attempts_are_counted_by_network_for_a_bounded_number_of_them() -> None:
    attempts = Attempts(lambda: 0.0, most=2, addresses=3)
    attempts.count("2001:db8::1")
    attempts.count("2001:db8::2")
    with pytest.raises(RateLimited, match="wait 300 s"):
        attempts.check("2001:db8::ffff")
    attempts.check("2001:db8:0:1::1")
    for number in range(50):
        attempts.count(f"10.0.0.{number}")
    assert len(vars(attempts)["_wrong"]) == 3
    attempts.check("2001:db8::1")
    attempts.count("10.0.0.49")
    attempts.forget("10.0.0.49")
    attempts.check("10.0.0.49")


def test_a_session_is_read_back_only_by_the_house_that_signed_it(vault: Vault) -> None:
    now = [1000.0]
    sessions = Sessions(vault, lambda: now[0])
    session = sessions.start("abc")
    assert sessions.read(sessions.seal(session)) == session
    assert sessions.fits(session, sessions.token(session))
    assert not sessions.fits(sessions.start("abc"), sessions.token(session)), "each session has its own token"
    assert Sessions(Vault(bytes(32)), lambda: now[0]).read(sessions.seal(session)) is None
    now[0] += LASTS_S
    assert sessions.read(sessions.seal(session)) is None
    assert sessions.read(None) is sessions.read("é.1.2.3") is None


async def test_every_answer_carries_the_headers_that_confine_it(here: Office) -> None:
    task = await here.park(approval())
    async with here.browser() as browser:
        pages = [await browser.get("/review"), await browser.post("/review/sign-in", key="x", token="")]
        await browser.sign_in(here.issued["zoe"].secret)
        pages += [await browser.get(path) for path in ("/review", f"/review/tasks/{task.id}", "/review/tasks/none")]
        style = await browser.get("/review/static/review.css")
    assert [page.status for page in pages] == [200, 403, 200, 200, 404]
    for page in [*pages, style]:
        policy = page.headers["content-security-policy"]
        for part in ("default-src 'none'", "style-src 'self'", "img-src 'self'", "form-action 'self'"):
            assert part in policy
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy and "unsafe" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["referrer-policy"] == "no-referrer"
    assert {page.headers["cache-control"] for page in pages} == {"no-store"}
    assert style.headers["content-type"].startswith("text/css") and "set-cookie" not in style.headers
    assert all("<script" not in page.source and " style=" not in page.source for page in pages)
    async with here.browser() as browser:
        assert (await browser.get("/review/static/..%2f__init__.py")).status == 404
        assert (await browser.get("/review/static/none.css")).status == 404
