"""Signatures compared with those Amazon publishes.

The vectors named below are those of the "Signature Version 4 test suite" of the AWS General Reference, in the form
AWS keeps it today: github.com/awslabs/aws-c-auth, tests/aws-signing-test-suite/v4/<name>/header-signed-request.txt
(Apache-2.0). All of them use the suite's key AKIDEXAMPLE, 2015-08-30T12:36:00Z, us-east-1 and the service "service".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from metier.providers.sigv4 import Credentials, sign

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEY = Credentials("AKIDEXAMPLE", SECRET)
AT = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
PLACE = ("us-east-1", "service")
HOST = "https://example.amazonaws.com"
FORM_SUM = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"
# post-sts-header-before
STS_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi"
    "/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPk"
    "UL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)


def signature(headers: dict[str, str]) -> tuple[str, str]:
    found = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        r"SignedHeaders=([\w;-]+), Signature=([0-9a-f]{64})",
        headers["authorization"],
    )
    assert found is not None
    return found[1], found[2]


@pytest.mark.parametrize(
    ("name", "method", "target", "expected"),
    [
        ("get-vanilla", "GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("post-vanilla", "POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ("get-utf8", "GET", "/ሴ", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        (
            "get-space-unnormalized",
            "GET",
            "/example space/",
            "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
        ),
        (
            "get-unreserved",
            "GET",
            "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "get-vanilla-query-order-key-case",
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-vanilla-utf8-query",
            "GET",
            "/?ሴ=bar",
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
        ),
    ],
)
def test_a_request_is_signed_as_amazon_signs_it(name: str, method: str, target: str, expected: str) -> None:
    headers = sign(method, HOST + target, {}, b"", KEY, PLACE, AT)
    assert signature(headers) == ("host;x-amz-date", expected), name
    assert headers["x-amz-date"] == "20150830T123600Z"
    assert headers["host"] == "example.amazonaws.com"


def test_spaces_around_and_inside_header_values_do_not_count() -> None:
    # get-header-value-trim
    headers = sign("GET", HOST + "/", {"My-Header1": " value1", "My-Header2": ' "a   b   c"'}, b"", KEY, PLACE, AT)
    names, found = signature(headers)
    assert names == "host;my-header1;my-header2;x-amz-date"
    assert found == "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"


def test_a_body_is_part_of_what_is_signed() -> None:
    # post-x-www-form-urlencoded
    told = {
        "content-type": "application/x-www-form-urlencoded",
        "content-length": "13",
        "x-amz-content-sha256": FORM_SUM,
    }
    _, found = signature(sign("POST", HOST + "/", told, b"Param1=value1", KEY, PLACE, AT))
    assert found == "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"
    _, other = signature(sign("POST", HOST + "/", told, b"Param1=value2", KEY, PLACE, AT))
    assert other != found


@pytest.mark.parametrize(
    ("name", "method", "token", "expected"),
    [
        (
            "get-vanilla-with-session-token",
            "GET",
            "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
            "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
        ),
        (
            "post-sts-header-before",
            "POST",
            STS_TOKEN,
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
        ),
    ],
)
def test_a_session_token_is_signed_too(name: str, method: str, token: str, expected: str) -> None:
    headers = sign(method, HOST + "/", {}, b"", Credentials("AKIDEXAMPLE", SECRET, token), PLACE, AT)
    assert signature(headers) == ("host;x-amz-date;x-amz-security-token", expected), name
    assert headers["x-amz-security-token"] == token


def test_a_path_that_is_encoded_already_is_encoded_once_more_to_be_signed() -> None:
    encoded = sign("POST", HOST + "/model/a%3A0%2Fb/converse", {}, b"", KEY, PLACE, AT)
    plain = sign("POST", HOST + "/model/a:0/b/converse", {}, b"", KEY, PLACE, AT)
    assert signature(encoded) != signature(plain)


def test_the_port_is_named_where_it_is_not_the_usual_one() -> None:
    assert sign("GET", "http://127.0.0.1:8080/", {}, b"", KEY, PLACE, AT)["host"] == "127.0.0.1:8080"
    assert sign("GET", "https://a.example:443/", {}, b"", KEY, PLACE, AT)["host"] == "a.example"


def test_the_clock_may_stand_in_any_zone() -> None:
    paris = AT.astimezone(timezone(timedelta(hours=2)))
    assert sign("GET", HOST + "/", {}, b"", KEY, PLACE, paris) == sign("GET", HOST + "/", {}, b"", KEY, PLACE, AT)


def test_credentials_are_not_shown() -> None:
    assert "wJal" not in repr(Credentials("AKIDEXAMPLE", SECRET, "token"))
    assert "token" not in repr(Credentials("AKIDEXAMPLE", SECRET, "token"))
