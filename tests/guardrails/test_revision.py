from __future__ import annotations

import pathlib
import shutil

from metier.guardrails import pii
from metier.guardrails.pii import PersonalData
from metier.guardrails.pii.revision import revision
from metier.vault import Vault

PACKAGE = pathlib.Path(pii.__file__).parent


def test_the_revision_changes_with_a_rule_or_a_word_and_with_nothing_else(tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "pii"
    shutil.copytree(PACKAGE, copy)
    same = revision(copy)
    assert PersonalData(None, Vault(bytes(32))).revision == revision() == same
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "names.cpython-311.pyc").write_bytes(b"x")
    (copy / "note.md").write_text("x")
    assert revision(copy) == same
    seen = {same}
    for name, more in (("data/first_names.txt", "zebulon\n"), ("numbers.py", "# stricter\n"), ("new.py", "")):
        with (copy / name).open("a") as file:
            file.write(more)
        seen.add(revision(copy))
    (copy / "new.py").rename(copy / "newer.py")
    assert len(seen | {revision(copy)}) == 5
