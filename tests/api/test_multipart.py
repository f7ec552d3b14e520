"""Forms with files: what is one is cut exactly, what is none is refused, and nothing is written anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.api.multipart import Field, read
from metier.errors import Mistaken

KIND = b"multipart/form-data; boundary=xYz"


def form(*fields: tuple[str, bytes]) -> bytes:
    written = [b"--xYz\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in fields]
    return b"".join(written) + b"--xYz--\r\n"


NAMED = 'Content-Disposition: form-data; name="model"'
FILE = 'Content-Disposition: form-data; name="file"; filename="été.wav"\r\nContent-Type: audio/wav'


def test_fields_and_files_are_cut_exactly() -> None:
    sound = b"\r\n--xY\x00\xff\r\n"
    found = read(form((NAMED, b"petit"), (FILE, sound), (NAMED, b"autre")), KIND)
    assert found["model"] == [Field(b"petit"), Field(b"autre")]
    [file] = found["file"]
    assert (file.data, file.filename, file.media_type) == (sound, "été.wav", "audio/wav")


@pytest.mark.parametrize(
    "kind", [b'multipart/form-data; boundary="xYz"', b"Multipart/Form-Data;charset=x;boundary=xYz"]
)
def test_the_kind_may_be_written_in_several_ways(kind: bytes) -> None:
    assert read(form((NAMED, b"petit")), kind)["model"][0].text == "petit"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (form((NAMED, b"a")), b"application/json"),
        (form((NAMED, b"a")), b"multipart/form-data"),
        (form((NAMED, b"a")), b"multipart/form-data; boundary=" + b"x" * 71),
        (form((NAMED, b"a")), b"multipart/form-data; boundary=\xe9"),
        (form((NAMED, b"a"))[:-6], KIND),
        (b"", KIND),
        (b"--xYz--", b""),
        (form(("Content-Disposition: form-data", b"a")), KIND),
        (form((f"X: {'a' * 5000}\r\n{NAMED}", b"a")), KIND),
        (b"--xYz\r\nno head--xYz--", KIND),
        (form(*[(NAMED, b"a")] * 65), KIND),
    ],
)
def test_what_is_no_form_is_refused(body: bytes, kind: bytes) -> None:
    with pytest.raises(Mistaken):
        read(body, kind)


def test_a_text_that_is_no_text_is_refused() -> None:
    with pytest.raises(Mistaken, match="UTF-8"):
        assert read(form((NAMED, b"\xff")), KIND)["model"][0].text


@given(st.lists(st.binary(max_size=40), max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_bytes_come_back(values: list[bytes]) -> None:
    values = [value for value in values if b"--xYz" not in value]
    found = read(form(*[(NAMED, value) for value in values]), KIND)
    assert [field.data for field in found.get("model", [])] == values


@given(st.binary(max_size=200), st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_taken_or_refused(body: bytes, kind: bytes) -> None:
    for given_kind in (kind, KIND):
        for given_body in (body, b"--xYz" + body + b"\r\n--xYz--"):
            try:
                read(given_body, given_kind)
            except Mistaken as error:
                assert error.message


@pytest.mark.parametrize("name", ["filename*=a%00b'x'y", "filename*=idna''xn--" + "a" * 200])
def test_a_file_name_in_a_character_set_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(Mistaken):
        read(form((f'Content-Disposition: form-data; name="file"; {name}', b"x")), KIND)


def test_half_a_character_in_a_file_name_can_be_written() -> None:
    found = read(form(("Content-Disposition: form-data; name=file; filename*=unicode_escape''%5cud800", b"x")), KIND)
    assert found["file"][0].filename == "?"
