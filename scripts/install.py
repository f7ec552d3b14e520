"""Install Métier and everything it needs into .venv beside the sources, with uv where it is, with plain pip elsewhere.

Needs Python 3.11 to 3.13 and the network of a package index, nothing else: where the system's Python comes without pip
or ensurepip, pip itself is fetched, checked against the hash below, and run from its wheel. Every package is checked
against the hashes of the lock. A second run with nothing changed does nothing.

    python3 scripts/install.py run      what the platform and the demonstration need
    python3 scripts/install.py test     what the tests need as well
"""

from __future__ import annotations

import hashlib
import html
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PIP_VERSION = "26.3"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


def main() -> None:
    """Install what the argument names, unless it is there already."""
    if len(sys.argv) != 2 or sys.argv[1] not in ("run", "test"):
        sys.exit(__doc__)
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            f"Métier needs Python 3.11, 3.12 or 3.13; this is {sys.version.split()[0]}. Use: make PYTHON=python3.12 …"
        )
    what = sys.argv[1]
    stamp, wanted = VENV / ".installed", _fingerprint(what)
    covered = {_fingerprint("run"), _fingerprint("test")} if what == "run" else {wanted}
    if stamp.exists() and stamp.read_text().strip() in covered and (VENV / "bin" / "metier").exists():
        return
    uv = shutil.which("uv")
    print("Installing into .venv with " + ("uv" if uv else "pip") + " …", flush=True)
    stamp.unlink(missing_ok=True)
    if uv:
        groups = ["--group", "dev"] if what == "test" else ["--no-default-groups"]
        _run([uv, "sync", "--frozen", "--all-extras", "--python", sys.executable, *groups])
    else:
        _with_pip(what)
    stamp.write_text(wanted)


def _with_pip(what: str) -> None:
    python = VENV / "bin" / "python"
    if not python.exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], capture_output=True, text=True, check=False)
        if made.returncode:
            shutil.rmtree(VENV, ignore_errors=True)
            _run([sys.executable, "-m", "venv", "--without-pip", str(VENV)])
    pip = [str(python), "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        wheel = _fetch_pip()
        _run([str(python), str(wheel / "pip"), "install", "-q", "--no-index", "--no-deps", str(wheel)])
    quiet = ["--disable-pip-version-check", *([] if sys.stdout.isatty() else ["-q"])]
    _run([*pip, "install", *quiet, "--require-hashes", "-r", str(ROOT / "requirements" / f"{what}.txt")])
    _run([*pip, "install", *quiet, "-q", "--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def _fetch_pip() -> pathlib.Path:
    """Fetch pip's own wheel from the package index and check it against the hash above."""
    index = os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
    page_url = index.rstrip("/") + "/pip/"
    name = f"pip-{PIP_VERSION}-py3-none-any.whl"
    print(f"This Python has no pip: fetching {name} …", flush=True)
    page = urllib.request.urlopen(page_url, timeout=60).read().decode("utf-8")
    found = re.search(rf'href="([^"]*{re.escape(name)}[^"]*)"', page)
    if found is None:
        sys.exit(f"{name} is not on {page_url}. Install python3-venv or uv, then try again.")
    url = urllib.parse.urljoin(page_url, html.unescape(found[1]))
    data = urllib.request.urlopen(url, timeout=300).read()
    if hashlib.sha256(data).hexdigest() != PIP_SHA256:
        sys.exit(f"{name} does not have the expected SHA-256: it is not used. Install python3-venv or uv instead.")
    wheel = VENV / name
    wheel.write_bytes(data)
    return wheel


def _fingerprint(what: str) -> str:
    """Changes whenever what would be installed does, or the folder or the Python it is installed for."""
    digest = hashlib.sha256(f"{what} {sys.version_info[:2]} {ROOT}".encode())
    for name in ("uv.lock", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _run(arguments: list[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH")}
    done = subprocess.run(arguments, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        sys.exit(f"this command failed ({done.returncode}): {' '.join(arguments)}")


if __name__ == "__main__":
    main()
