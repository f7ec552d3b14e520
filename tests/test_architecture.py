"""The gates of the house: size, direction, one home for each thing. Raising a limit is a commit of its own."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from metier.store import Store, named_queries

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / "src" / "metier"
MODULES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
QUERIES = sorted((SOURCE / "sql" / "queries").glob("*.sql"))

# Heavy optional extras: the only packages that may be imported inside a function.
EXTRAS = {
    "xllamacpp",
    "onnx",
    "onnxruntime",
    "sklearn",
    "threadpoolctl",
    "kreuzberg",
    "httpx2",
    "aiosmtpd",
    "numpy",
    "mcp",
    "agents",
    "openai",
}

# Web and template libraries, and the rooms that may import each.
SURFACE_LIBRARIES = {
    "fastapi": ("api", "console"),
    "starlette": ("api", "console"),
    "uvicorn": ("api", "console", "cli"),
    "jinja2": ("api", "console", "workflow/prompt_language.py", "workflow/prompts.py"),
}

# Which queries file may write to which tables.
OWNERS = {
    "register": {"systems", "approvals"},
    "keys": {"keys", "organisations", "projects"},
    "master_key": {"master_keys"},
    "admission": {"grants", "leases", "standings"},
    "alerts": {"alerts", "deliveries", "feed"},
    "limits": {"limits"},
    "ledger": {"calls", "usage_hours", "usage_keys", "usage_latencies"},
    "contents": {
        "content_reads",
        "contents",
        "erasures",
        "keepings",
        "legal_holds",
        "readers",
        "subjects",
        "workspaces",
    },
    "pseudonyms": {"conversations", "pseudonyms"},
    "ingest": {"collections", "documents", "chunks", "terms"},
    "retrieve": set(),
    "engine": {"definitions", "events", "item_groups", "kept_results", "run_people", "runs", "waits"},
    "journal": {"blobs", "journal", "journal_aside"},
    "conversation": {"agent_exchanges"},
    "dispatch": {"procrastinate_jobs", "procrastinate_workers"},
    "schedule": {"worker_slots"},
    "review": {"tasks", "task_events"},
    "notices": {"task_notices"},
    "absences": {"absences"},
    "corrections": {"corrections"},
    "links": {"task_links"},
    "triggers": {"run_askers", "trigger_events", "trigger_flows", "trigger_letters", "triggers"},
    "outbox": {"outbox"},
    "cache": {"cache_entries", "cache_purges"},
    "classifiers": {"classifiers"},
    "batches": {"batches", "batch_lines"},
    "files": {"files", "file_pieces"},
    "responses": {"responses"},
    "plan": set(),
    "releases": {"releases", "release_heads", "release_moves"},
    "secrets": {"secrets"},
}


def relative(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_module_stays_small(path: pathlib.Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= 60, f"{node.name} is longer than 60 lines"
            named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            counted = [a for a in named if a.arg not in ("self", "cls")]
            assert len(counted) <= 7, f"{node.name} takes {len(counted)} parameters"
        if isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            assert len(methods) <= 20, f"{node.name} has {len(methods)} methods"


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_a_test_module_stays_readable(path: pathlib.Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_stand_at_the_top_unless_an_extra_is_optional(path: pathlib.Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]:
        for node in ast.walk(function):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert name.split(".")[0] in EXTRAS, f"{function.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_surface_libraries_stay_on_the_surface(path: pathlib.Path) -> None:
    place = path.relative_to(SOURCE).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for name in names:
            allowed = SURFACE_LIBRARIES.get(name.split(".")[0])
            assert allowed is None or place.startswith(allowed), f"{place} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_drawer_and_no_module_level_state(path: pathlib.Path) -> None:
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Set) and not node.value.elts:
            pytest.fail(f"line {node.lineno}: an empty mutable value at module level")
        assert not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and not node.value.keys), (
            f"line {node.lineno}: an empty mutable value at module level"
        )


def test_imports_point_down_the_floors() -> None:
    done = subprocess.run(
        [str(pathlib.Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", QUERIES, ids=lambda p: p.name)
def test_only_the_owner_of_a_table_writes_to_it(path: pathlib.Path) -> None:
    text = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
    written = re.findall(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|TRUNCATE)\s+([a-z_]+)", text, re.IGNORECASE)
    mine = OWNERS[path.stem]
    assert {w.lower() for w in written} - {"set", "skip", "of", "nowait"} <= mine


@pytest.mark.parametrize("path", QUERIES, ids=lambda p: p.name)
def test_every_query_has_its_comment_and_is_used(path: pathlib.Path) -> None:
    source = "\n".join(m.read_text(encoding="utf-8") for m in MODULES)
    for name, statement in named_queries(path.stem).items():
        assert statement.startswith("--"), f"{path.stem}.{name} has no comment line"
        assert f'"{name}"' in source, f"{path.stem}.{name} is never used"


@pytest.mark.parametrize("path", QUERIES, ids=lambda p: p.name)
async def test_every_query_can_be_prepared_on_the_migrated_schema(path: pathlib.Path, store: Store) -> None:
    async with store.connection() as connection:
        for name, statement in named_queries(path.stem).items():
            order: dict[str, int] = {}

            def number(match: re.Match[str], order: dict[str, int] = order) -> str:
                return f"${order.setdefault(match[1], len(order) + 1)}"

            text = re.sub(r"%\((\w+)\)s", number, statement).replace("%%", "%")
            try:
                await connection.execute(f"PREPARE q AS {text}".encode())
            except Exception as error:  # the name of the query is what the reader needs
                raise AssertionError(f"{path.stem}.{name}: {error}") from error
            await connection.execute(b"DEALLOCATE q")


def test_importing_metier_is_quick_and_starts_nothing() -> None:
    probe = (
        "import sys, threading, time, pathlib, socket\n"
        "began = time.process_time()\n"
        "import metier\n"
        "spent = time.process_time() - began\n"
        "assert threading.active_count() == 1\n"
        "assert 'starlette' not in sys.modules and 'psycopg' not in sys.modules\n"
        "assert spent <= 0.3, spent\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
