"""Libraries load at their first use: what a gateway never needs is not there, and the gates see every import."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

from metier.deferred import deferred

SOURCE = pathlib.Path(__file__).parent.parent / "src" / "metier"
MODULES = [p for p in sorted(SOURCE.rglob("*.py")) if "import deferred" in p.read_text(encoding="utf-8")]
NOT_NEEDED = (
    "celpy",
    "imapclient",
    "jinja2",
    "jsonschema",
    "lark",
    "metier.console",
    "numpy",
    "re2",
    "rich",
    "sqlite3",
)
WORKED_WITH = ("aiohttp", "metier.app", "metier.cli.terminal", "procrastinate", "psycopg", "pydantic")


def _is_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def test_a_deferred_library_is_loaded_at_its_first_use() -> None:
    probe = (
        "import sys\n"
        "from metier.deferred import deferred\n"
        "wave = deferred('wave')\n"
        "assert 'wave' not in sys.modules and not hasattr(wave, '__path__')\n"
        "assert wave.Error.__name__ == 'Error' and 'wave' in sys.modules\n"
        "assert wave.Error is sys.modules['wave'].Error\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_a_library_lacks_and_a_library_that_lacks_are_told_as_ever() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = deferred("json").nothing_like_it
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        _ = deferred("no_such_library").anything


def test_what_serves_loads_no_library_that_a_gateway_may_never_need() -> None:
    probe = f"import sys, metier.cli.serving\nprint(*[name for name in {NOT_NEEDED!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", ["serve", "worker"])
def test_what_a_service_can_do_is_told_without_what_it_works_with(name: str) -> None:
    probe = f"import sys, metier.cli.{name}\nprint(*[one for one in {WORKED_WITH!r} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_deferred_library_is_imported_under_type_checking_where_the_gates_see_it(path: pathlib.Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    pairs = [node for node in tree.body if isinstance(node, ast.If) and _is_checking(node)]
    named, seen, within = set(), set(), 0
    for pair in pairs:
        for node in pair.body:
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                seen |= {f"{node.module}.{alias.name}" for alias in node.names}
        for made in pair.orelse:
            assert isinstance(made, ast.Assign) and isinstance(made.value, ast.Call)
            (name,) = made.value.args
            assert isinstance(name, ast.Constant)
            named.add(str(name.value))
            within += 1
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "deferred"]
    assert within == len(calls), "deferred() stands beside `if TYPE_CHECKING:` and nowhere else"
    assert named <= seen
