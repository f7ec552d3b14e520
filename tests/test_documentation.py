"""What exists is documented, what is documented exists: settings, errors, commands, paths, links and examples."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tomllib
import unicodedata
from typing import Any

import click
import pytest
import yaml
from starlette.routing import Route

from metier import errors, settings
from metier.api import chat_body, server
from metier.catalog import Catalog
from metier.cli import main
from metier.connectors.tools import NAMES
from metier.console import pages
from metier.workflow.definition import load
from metier.workflow.lint import lint
from metier.workflow.rehearsal import rehearse
from metier.workflow.steps.functions import FUNCTIONS

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
READMES = (ROOT / "README.md", ROOT / "README.fr.md")
BIN = pathlib.Path(sys.executable).parent

TWO_LANGUAGES = [
    DOCS / "quickstart.md",
    *sorted((DOCS / "howto").glob("*.md")),
    *sorted((DOCS / "tutorial").glob("*.md")),
]

# A command that needs neither model nor database, as it may stand in an example.
_OFFLINE = re.compile(r"^(?:\.venv/bin/)?metier (?:--help|(?:lint|test) \S+)$")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TWIN = re.compile(r"\[(?:En français|In English)\]\(([^)\s]+)\)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Absent:
    """Stands for every part of a platform that is not built: paths can be listed without one."""

    def __getattr__(self, name: str) -> Any:
        return self


def named(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


def read(name: str) -> str:
    return (DOCS / "reference" / name).read_text(encoding="utf-8")


def commands(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, f"{path} {name} is listed and does not exist"
            found += commands(inner, f"{path} {name}")
    return found


COMMANDS = commands(main, "metier")


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as the usual viewers of Markdown make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    kept = ("".join(c for c in head.lower() if c in " -_" or unicodedata.category(c)[0] in "LN") for head in heads)
    return {head.strip().replace(" ", "-") for head in kept}


def examples(page: pathlib.Path, language: str) -> list[str]:
    return [body for name, body in _FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def twin(page: pathlib.Path) -> pathlib.Path | None:
    """The same page in the other language, which it names by a link."""
    if page.suffix != ".md":
        return None
    found = _TWIN.search(page.read_text(encoding="utf-8"))
    return (page.parent / found[1]).resolve() if found else None


def steps(block: str) -> str:
    """The commands of a block, without remarks, names to fill in, and words said to people."""
    bare = re.sub(r"[ \t]+#.*|<.*?>", "", block)
    return re.sub(r'"[^"$]*"', '"…"', bare)


def shape(page: pathlib.Path) -> list[str]:
    """The kinds of lines a page is made of: headings by level, points of lists, rows of tables."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"^(#+ |- |\|)", text, re.MULTILINE)


def reached(page: pathlib.Path) -> set[pathlib.Path]:
    """The pages of the documentation a page links to, but for its twin."""
    targets = (target.partition("#")[0] for target in _LINK.findall(page.read_text(encoding="utf-8")))
    found = {(page.parent / target).resolve() for target in targets if target and ":" not in target}
    return found - {twin(page)}


def test_the_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "reference.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_and_section_is_documented() -> None:
    text = read("settings.md")
    for variable in settings.VARIABLES:
        assert f"| `{variable.name}` |" in text
        assert len(variable.help) > 5
    for section in settings.SECTIONS:
        assert f"| `{section.name}` |" in text
        assert re.search(rf"^### .*\b{section.name}\b", text, re.MULTILINE), f"{section.name} has no explanation"


def test_every_error_code_is_documented() -> None:
    text = read("errors.md")
    for name in errors.__all__:
        assert f"| `{getattr(errors, name).code}` | {getattr(errors, name).status} | `{name}` |" in text


def test_the_errors_drawn_in_the_docstring_are_those_that_exist() -> None:
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+(?=\s|\()", (errors.__doc__ or "").split("\n\n", 1)[1]))
    assert set(errors.__all__) <= drawn


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_and_option_is_documented(path: str, command: click.Command) -> None:
    _, found, rest = read("cli.md").partition(f"\n## {path}\n")
    assert found, f"{path} is not documented"
    text = rest.split("\n## ", 1)[0]
    assert command.help, f"{path} has no help"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[0] in text


def test_every_path_for_programs_is_documented() -> None:
    absent: Any = Absent()
    text = read("http-api.md")
    for route in server.routes(absent):
        assert isinstance(route, Route)
        assert f"`{route.path}`" in text
    for name in chat_body.IGNORED | chat_body.NEUTRAL.keys():
        assert f"`{name}`" in text


def test_every_parameter_that_is_taken_is_documented() -> None:
    text = read("http-api.md")
    for name in chat_body._KNOWN:
        assert f"`{name}`" in text or f"`{name}." in text, f"{name} is taken and not documented"


def test_every_header_that_is_sent_or_read_is_documented() -> None:
    text = read("http-api.md") + read("errors.md")
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / "metier" / "api").glob("*.py"))
    sent = set(re.findall(r'b"(x-[a-z-]+|retry-after[a-z-]*|api-key)"', source)) - {"x-accel-buffering"}
    assert {"x-request-id", "x-metier-cost-eur"} <= sent
    for header in sent:
        assert f"`{header}`" in text or f"`{header}:" in text, f"{header} is not documented"


def test_every_page_for_people_is_documented() -> None:
    absent: Any = Absent()
    text = read("console.md")
    for route in pages(absent):
        assert isinstance(route, Route)
        method = next(iter((route.methods or set()) - {"HEAD"}))
        assert f"| `{route.path}` | {method} |" in text


def test_every_tool_and_function_of_workflows_is_documented() -> None:
    text = read("steps.md")
    for name in (*NAMES, *FUNCTIONS):
        assert f"| `{name}` |" in text


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in anchors(file), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_speaks_of_somebodys_machine(page: pathlib.Path) -> None:
    text = page.read_text(encoding="utf-8")
    for private in (
        r"/home/\w+",
        r"/root/\w",
        r"/work/",
        r"/opt/\w",
        r"(?<![\w.])/tmp/(?!old-postgres)\w",
        r"localhost:\d{5}",
    ):
        assert not re.search(private, text), f"{private} stands in it"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_page_begins_with_one_title_and_is_reached(page: pathlib.Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    assert text.startswith("# ")
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    linked = {
        (other.parent / target.partition("#")[0]).resolve()
        for other in PAGES
        if other != page
        for target in _LINK.findall(other.read_text(encoding="utf-8"))
    }
    assert page.resolve() in linked, "no other page links to it"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_in_examples_exist(page: pathlib.Path) -> None:
    known = {path for path, _ in COMMANDS}
    groups = {path for path, command in COMMANDS if isinstance(command, click.Group)}
    options = {path: {o for p in c.params for o in (*p.opts, *p.secondary_opts)} for path, c in COMMANDS}
    for block in examples(page, "sh"):
        for line in re.findall(r"(?:^|&& |\n)(?:\.venv/bin/)?(metier [^\n#&]*)", block):
            words = line.split()
            path = " ".join(words[:2])
            if path in groups and len(words) > 2 and not words[2].startswith("-"):
                path = " ".join(words[:3])
            if words[1] in ("--help", "--version"):
                path = "metier"
            assert path in known, f"{line!r} names no command"
            for option in re.findall(r"(?<=\s)--[a-z-]+", re.sub(r'"[^"]*"', "", line)):
                assert option in options[path] | {"--help"}, f"{line!r}: {path} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_yaml_in_examples_can_be_read(page: pathlib.Path) -> None:
    for block in examples(page, "yaml"):
        if "[…]" in block:
            continue
        found = yaml.safe_load(block)
        if isinstance(found, dict) and "models" in found:
            Catalog.from_yaml(found["models"])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_in_examples_compiles(page: pathlib.Path) -> None:
    for block in examples(page, "python"):
        compile(block, named(page), "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT


@pytest.mark.parametrize("page", READMES, ids=named)
def test_the_readme_is_short_and_names_the_two_commands(page: pathlib.Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert re.search(r"^make demo\b", text, re.MULTILINE)
    assert re.search(r"^make test\b", text, re.MULTILINE)


def test_both_readmes_say_the_same() -> None:
    english, french = (page.read_text(encoding="utf-8") for page in READMES)
    assert [block for kind, block in _FENCE.findall(english) if kind == "yaml"] == [
        block for kind, block in _FENCE.findall(french) if kind == "yaml"
    ]
    assert len(re.findall(r"^## ", english, re.MULTILINE)) == len(re.findall(r"^## ", french, re.MULTILINE))
    named_there = {(ROOT / t).resolve() for t in _LINK.findall(english) if t.startswith("docs/")}
    assert {twin(page) or page for page in named_there} == {
        (ROOT / t).resolve() for t in _LINK.findall(french) if t.startswith("docs/")
    }


@pytest.mark.parametrize("english", TWO_LANGUAGES, ids=named)
def test_every_page_people_work_with_has_a_french_twin_that_says_the_same(english: pathlib.Path) -> None:
    french = twin(english)
    assert french is not None, "no link named 'En français' leads to its twin"
    assert french.parent == DOCS / "fr"
    assert twin(french) == english, "its twin does not lead back by a link named 'In English'"
    assert [steps(block) for block in examples(english, "sh")] == [steps(block) for block in examples(french, "sh")]
    assert examples(english, "yaml") == examples(french, "yaml")
    assert examples(english, "") == examples(french, "")
    for language in ("python", "sql"):
        without = [[re.sub(r"\s*(?:#|--).*", "", b) for b in examples(page, language)] for page in (english, french)]
        assert without[0] == without[1]
    assert shape(english) == shape(french)
    assert reached(english) == {twin(page) or page for page in reached(french)}


def test_every_french_page_has_an_english_twin() -> None:
    french = {twin(page) for page in TWO_LANGUAGES}
    assert set((DOCS / "fr").glob("*.md")) == french
    assert len(french) == len(TWO_LANGUAGES)


def test_examples_of_the_readme_run(tmp_path: pathlib.Path) -> None:
    lines = {re.sub(r"\s+#.*", "", line) for page in READMES for b in examples(page, "sh") for line in b.splitlines()}
    chosen = sorted(line for line in lines if _OFFLINE.match(line)) + ["metier --help"]
    assert {"metier lint support-reply", "metier test support-reply"} <= set(chosen)
    environment = {"METIER_HOME": str(tmp_path / "home"), "LANG": "C.UTF-8"}
    for line in chosen:
        words = line.removeprefix(".venv/bin/").split()
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
    assert not (tmp_path / "home").exists(), "an example that needs no data has made some"


def test_the_workflow_of_the_how_to_passes_its_linter_and_tests(tmp_path: pathlib.Path) -> None:
    page = DOCS / "howto" / "write-a-workflow.md"
    (tmp_path / "prompts").mkdir()
    (tmp_path / "flow.yaml").write_text(examples(page, "yaml")[0], encoding="utf-8")
    (tmp_path / "prompts" / "summary.md").write_text(examples(page, "")[0], encoding="utf-8")
    workflow = load(tmp_path / "flow.yaml")
    assert workflow.name in page.read_text(encoding="utf-8").split("metier system register ")[1]
    assert not lint(workflow)
    results = [rehearse(workflow, test, FUNCTIONS) for test in workflow.tests]
    assert results
    assert all(result.ok for result in results)


def test_the_changelog_has_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first[1].rstrip(",") == version


def test_pages_named_in_messages_exist() -> None:
    for module in (ROOT / "src" / "metier").rglob("*.py"):
        for page in re.findall(r"docs/[\w/-]+\.md", module.read_text(encoding="utf-8")):
            assert (ROOT / page).exists(), f"{named(module)} speaks of {page}"


def test_words_of_the_glossary_stand_once() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| [^|]+ \| [^|]*\|$", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    words = [word.strip() for row in rows[2:] for word in re.split(r"[;,]|→", row)]
    assert len(words) == len(set(words)), sorted({w for w in words if words.count(w) > 1})
