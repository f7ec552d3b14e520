"""Our control keys against independent implementations, which only the tests use."""

from __future__ import annotations

import random

import pytest
from schwifty import IBAN
from schwifty.exceptions import SchwiftyException
from stdnum import luhn
from stdnum.fr import nif, nir, siren, siret, tva

from metier.guardrails.pii import checksums

_RANDOM = random.Random(20261121)


def _digits(count: int) -> str:
    return "".join(_RANDOM.choice("0123456789") for _ in range(count))


def _with_luhn(head: str) -> str:
    return head + str(luhn.calc_check_digit(head))


def _nir() -> str:
    place = _RANDOM.choice(["01", "75", "2A", "2B", "97", "99", "33"])
    body = f"{_RANDOM.choice('1234')}{_digits(2)}{_RANDOM.randint(1, 12):02d}{place}{_digits(6)}"
    return body + nir.calc_check_digits(body)


def test_luhn_agrees_on_right_and_wrong_numbers() -> None:
    for _ in range(500):
        number = _digits(_RANDOM.randint(9, 19))
        assert checksums.luhn(number) == luhn.is_valid(number)


def test_social_security_numbers_agree_in_corsica_too() -> None:
    for _ in range(500):
        number = _nir()
        assert checksums.is_nir(number)
        wrong = number[:-2] + f"{(int(number[-2:]) % 97) + 1:02d}"
        assert checksums.is_nir(wrong) == nir.is_valid(wrong)


def test_company_numbers_agree_with_the_post_office_exception() -> None:
    for _ in range(300):
        company = _with_luhn(_digits(8))
        establishment = _with_luhn(company + _digits(4))
        assert checksums.is_siren(company) == siren.is_valid(company)
        assert checksums.is_siret(establishment) == siret.is_valid(establishment)
        post = "356000000" + _digits(5)
        assert checksums.is_siret(post) == siret.is_valid(post)


def test_vat_numbers_agree() -> None:
    for _ in range(300):
        company = _with_luhn(_digits(8))
        number = f"FR{_RANDOM.randint(0, 99):02d}{company}"
        assert checksums.is_vat(number) == tva.is_valid(number)


def test_tax_numbers_agree() -> None:
    for _ in range(300):
        head = _RANDOM.choice("0123") + _digits(9)
        assert checksums.is_tax(head + nif.calc_check_digits(head))
        assert not checksums.is_tax(head + f"{(int(head) % 511 + 1) % 511:03d}")


@pytest.mark.parametrize("country", ["FR", "DE", "BE", "ES", "IT", "NL", "PT", "LU", "GB"])
def test_account_numbers_agree(country: str) -> None:
    for _ in range(40):
        number = str(IBAN.random(country_code=country, random=_RANDOM))
        assert checksums.is_iban(number)
        wrong = number[:2] + f"{(int(number[2:4]) + 1) % 100:02d}" + number[4:]
        assert not checksums.is_iban(wrong)


def test_the_french_account_key_catches_what_the_iban_key_lets_through() -> None:
    for _ in range(60):
        number = str(IBAN.random(country_code="FR", random=_RANDOM))
        assert checksums.is_rib(number[4:])
        key = (int(number[-2:]) + 1) % 97
        wrong = str(IBAN.generate("FR", bank_code=number[4:9], branch_code=number[9:14], account_code=number[14:25]))
        moved = wrong[4:25] + f"{key:02d}"
        assert checksums.is_rib(moved) is _accepted(moved)


def _accepted(bban: str) -> bool:
    try:
        IBAN.from_bban("FR", bban, validate_bban=True)
    except SchwiftyException:
        return False
    return True


def test_cards_need_an_issuer_a_length_and_a_key() -> None:
    assert checksums.is_card("4111111111111111")
    assert checksums.is_card("5555555555554444")
    assert checksums.is_card("378282246310005")
    assert not checksums.is_card("4111111111111112")
    assert not checksums.is_card(_with_luhn("711111111111111"))
