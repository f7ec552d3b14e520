"""What befell others: labels used twice, files that run by themselves, templates of users, endless expressions."""

from __future__ import annotations

import ast
import contextlib
import json
import pathlib
import re
import time
import tomllib
from collections.abc import Callable
from typing import Final

import orjson
import pytest

from metier.api import chat_body, multipart, responses_body
from metier.calls import KeyId, Principal, ProjectId, SystemId
from metier.cli.listening import Service
from metier.connectors.mail import split_quoted
from metier.errors import ConfigError, MetierError
from metier.guardrails.pii.finding import find
from metier.workflow.prompts import prompt

ROOT: Final = pathlib.Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "src" / "metier"
PAGE: Final = ROOT / "docs" / "explanation" / "security.md"
WHO: Final = Principal(KeyId("k"), ProjectId("p"), SystemId("s"))


def labels() -> dict[tuple[str, str], set[str]]:
    """Every purpose a key is derived for, digest or seal, with the rooms that name it."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            name.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant)
            for name in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(name, ast.Name) and isinstance(node.value.value, str)
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) > 1):
                continue
            holder = ast.unparse(node.func.value)
            if node.func.attr not in ("seal", "open", "digest") or not holder.rstrip("_").endswith("vault"):
                continue
            given = node.args[0]
            label = given.value if isinstance(given, ast.Constant) else constants.get(getattr(given, "id", ""))
            kind = "digest" if node.func.attr == "digest" else "seal"
            room = path.relative_to(SOURCE).parts[0]
            if isinstance(label, str):
                found.setdefault((kind, label), set()).add(room)
    return found


def test_every_purpose_has_one_label_of_one_room_and_is_documented() -> None:
    found = labels()
    assert len(found) >= 12, found
    assert {place: rooms for place, rooms in found.items() if len(rooms) > 1} == {}, "two rooms share a key"
    told = set(re.findall(r"^\| `(seal|digest)/([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert told >= set(found), f"{PAGE.name} does not name {sorted(set(found) - told)}"


def test_the_wheel_is_made_of_the_package_alone_and_holds_nothing_that_runs_by_itself() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    # No force-include, no shared-data, no build hook: what the folder holds is what the wheel holds.
    assert built == {"targets": {"wheel": {"packages": ["src/metier"]}}}
    inside = [path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert not [path.name for path in inside if path.suffix in (".pth", ".so", ".exe", ".sh", ".pyd")]
    assert not [path.name for path in inside if path.name in ("sitecustomize.py", "usercustomize.py")]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_another_address_than_this_machines_needs_a_yes(host: str) -> None:
    with pytest.raises(ConfigError):
        Service(host, 8400).check()
    Service(host, 8400, cleartext=True).check()
    Service(host, 8400, behind_proxy=True).check()
    Service("127.0.0.1", 8400).check()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ d.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self._TemplateReference__context }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.environ }}",
        "{{ d.update({'a': 1}) }}",
        "{{ 'a' * 10000000000 }}",
        "{{ range(1000000000) | list }}",
        "{{ ('%s' | format('x')).__class__ }}",
    ],
)
def test_a_template_of_a_workflow_reaches_nothing_outside_its_values(template: str) -> None:
    try:
        shown = str(prompt(template, "p.md", {"d": {"x": 1}}))
    except MetierError:
        return
    assert "root:" not in shown and "class" not in shown and "module" not in shown


def test_templates_are_made_in_two_places_only() -> None:
    makers = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if re.search(r"\bimport jinja2|from jinja2", path.read_text(encoding="utf-8"))
    }
    # Prompts of workflows, in the sandbox of their language; pages, whose templates are our own files.
    assert makers == {"workflow/prompts.py", "workflow/prompt_language.py", "console/rendering.py"}
    prompts = (SOURCE / "workflow" / "prompts.py").read_text(encoding="utf-8")
    assert "from jinja2 import TemplateError, meta, nodes" in prompts and prompts.count("jinja2") == 1
    assert "ImmutableSandboxedEnvironment" in (SOURCE / "workflow" / "prompt_language.py").read_text(encoding="utf-8")
    pages = (SOURCE / "console" / "rendering.py").read_text(encoding="utf-8")
    assert "from_string" not in pages and "autoescape" in pages


PUMPS: Final = (
    "a", " ", "0", "-", ".", "@", "a.", "a@", "1 ", "0-", "A ", "Jean ", "M. ", "12 rue ", "12, rue de la ", "FR76 ",
    ": ", "::", "a:", "[[", "[[PERSONNE_", "é", "le ", "le 1er ", "bonjour ", "passport", "-----BEGIN ", "<", "\n",
    "\r\n> ",
    "password: ", "A-", "A.", "d'", "de ", "x@x.", "http://a:", "IBAN ", "1/1/", "a'", "\u0301", "ﬁ", "\u200b",
)  # fmt: skip
SIZE: Final = 2_000


def spent(work: Callable[[str], object], text: str) -> float:
    """Seconds of this process that the work took, the lesser of two."""
    found = []
    for _ in range(2):
        begun = time.process_time()
        with contextlib.suppress(MetierError):
            work(text)
        found.append(time.process_time() - begun)
    return min(found)


def parsed(text: str) -> object:
    """Read a body that holds the text wherever a text is looked at."""
    turn = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:{text}"}}]}
    tool = {"type": "function", "function": {"name": text}}
    return chat_body.parse(orjson.dumps({"model": "m", "messages": [turn], "tools": [tool]}), WHO)


def answered(text: str) -> object:
    """Read a body of the Responses API."""
    return responses_body.parse(json.dumps({"model": text[:200], "input": text, "metadata": {"a": text}}).encode(), WHO)


def form(text: str) -> object:
    """Read a form whose boundary and body are the text."""
    return multipart.read(text.encode(), f"multipart/form-data; boundary={text}".encode())


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(find, id="personal data"),
        pytest.param(split_quoted, id="mail"),
        pytest.param(parsed, id="chat body"),
        pytest.param(answered, id="response body"),
        pytest.param(form, id="form"),
    ],
)  # fmt: skip
def test_ten_times_the_text_takes_no_hundred_times_the_work(work: Callable[[str], object]) -> None:
    slow = []
    for pump in PUMPS:
        for end in ("", "!", "\n"):
            little = (pump * SIZE)[:SIZE] + end
            much = (pump * SIZE * 10)[: SIZE * 10] + end
            short, long = spent(work, little), spent(work, much)
            # A square would be 100 times; what takes under a fifth of a second harms nobody.
            if long > 0.2 and long > 40 * max(short, 0.001):
                slow.append((pump, end, round(short, 4), round(long, 4)))
    assert not slow, slow
