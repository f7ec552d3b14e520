from __future__ import annotations

import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metier.errors import LedgerBroken
from metier.record.spool import Frame, Spool, left_behind


def left(folder: pathlib.Path) -> dict[str, list[Frame]]:
    return {found.worker: list(found.frames()) for found in left_behind(folder)}


def test_what_is_appended_is_found_again_by_a_successor(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, "a", segment_bytes=64)
    spool.open()
    payloads = [f'{{"id":{n}}}'.encode() for n in range(20)]
    for payload in payloads:
        spool.append("opened", payload)
    assert left(tmp_path) == {}, "a living process keeps its spool to itself"
    spool.close()
    assert [f.payload for f in left(tmp_path)["a"]] == payloads
    assert len(list((tmp_path / "a").glob("*.spool"))) > 3


def test_a_segment_goes_with_its_last_needed_record_and_an_empty_spool_with_its_close(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, "a", segment_bytes=10)
    spool.open()
    segments = [spool.append("ended", b"12345678") for _ in range(5)]
    for segment in segments:
        spool.done(segment)
    spool.rotate()
    assert spool.size == 0 and len(list((tmp_path / "a").glob("*.spool"))) == 1
    spool.close()
    assert not (tmp_path / "a").exists()


@settings(max_examples=60, deadline=None)
@given(payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=8), cut=st.integers(min_value=0))
def test_a_torn_end_costs_only_what_was_torn(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, "a")
    spool.open()
    for payload in payloads:
        spool.append("ended", payload)
    spool.close(keep=True)
    [path] = (folder / "a").glob("*.spool")
    data = path.read_bytes()
    kept = cut % (len(data) + 1)
    path.write_bytes(data[:kept])
    whole, at = 0, 0
    for payload in payloads:
        at += 12 + len(payload)
        whole += at <= kept
    assert [f.payload for f in left(folder)["a"]] == payloads[:whole]


def test_damage_in_the_middle_does_not_hide_what_follows(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, "a")
    spool.open()
    for payload in (b"first", b"second", b"third"):
        spool.append("ended", payload)
    spool.close()
    [path] = (tmp_path / "a").glob("*.spool")
    data = bytearray(path.read_bytes())
    data[data.index(b"second")] ^= 1
    path.write_bytes(bytes(data))
    assert [f.payload for f in left(tmp_path)["a"]] == [b"first", b"third"]


def test_a_full_spool_refuses_new_calls_and_still_takes_the_end_of_those_begun(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, "a", most_bytes=40)
    spool.open()
    spool.append("opened", b"x" * 40)
    with pytest.raises(LedgerBroken, match="wait for the database"):
        spool.append("opened", b"y")
    spool.append("ended", b"z")
    spool.close()


def test_a_folder_that_cannot_be_written_is_said_before_the_first_call(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LedgerBroken, match="cannot be written"):
        Spool(tmp_path / "file", "a").open()
    with pytest.raises(LedgerBroken, match="cannot be written"):
        Spool(tmp_path / "file" / "deeper", "a").open()
    with pytest.raises(LedgerBroken, match="closed"):
        Spool(tmp_path, "a").append("opened", b"x")


def test_a_worker_id_used_before_never_overwrites_what_the_dead_left(tmp_path: pathlib.Path) -> None:
    first = Spool(tmp_path, "host-1")
    first.open()
    first.append("opened", b"precious")
    first.close()
    with pytest.raises(LedgerBroken, match="new worker id"):
        Spool(tmp_path, "host-1").open()
    assert [f.payload for f in left(tmp_path)["host-1"]] == [b"precious"]


def test_a_full_disk_leaves_no_half_record_and_passes_when_there_is_room_again(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, "a")
    spool.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        spool.append("opened", b"before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
        for _ in range(3):
            with pytest.raises(LedgerBroken, match="make room"):
                spool.append("opened", b"x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    spool.append("opened", b"after")
    spool.close()
    assert [f.payload for f in left(tmp_path)["a"]] == [b"before", b"after"]


def test_a_killed_process_loses_nothing_it_appended(tmp_path: pathlib.Path) -> None:
    script = (
        "import pathlib, sys\n"
        "from metier.record.spool import Spool\n"
        "spool = Spool(pathlib.Path(sys.argv[1]), 'child')\n"
        "spool.open()\n"
        "n = 0\n"
        "while True:\n"
        "    spool.append('opened', str(n).encode())\n"
        "    sys.stdout.write(f'{n}\\n')\n"
        "    sys.stdout.flush()\n"
        "    n += 1\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = [int(child.stdout.readline()) for _ in range(200)]
    assert left(tmp_path) == {}
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    said += [int(line) for line in child.stdout.read().splitlines() if line]
    child.stdout.close()
    numbers = [int(f.payload) for f in left(tmp_path)["child"]]
    assert numbers == list(range(len(numbers))) and len(numbers) >= len(said) - 1


def test_the_room_is_that_of_the_allowed_size_and_of_the_disk(tmp_path: pathlib.Path) -> None:
    spool = Spool(tmp_path, "a", most_bytes=1000)
    spool.open()
    assert spool.room == 1000
    spool.append("opened", b"x" * 900)
    assert 0 < spool.room < 100
    spool.append("ended", b"x" * 900)
    assert spool.room == 0
