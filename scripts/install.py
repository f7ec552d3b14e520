"""Install Métier and everything it needs into .venv beside the sources, with uv where it is, with plain pip elsewhere.

Needs Python 3.11 to 3.13 and the network of a package index, nothing else: where the system's Python comes without pip
or ensurepip, pip itself is fetched, checked against the hash below, and run from its wheel. Every package is checked
against the hashes of the lock. A second run with nothing changed does nothing; an interrupted one goes on. A .venv made
for another Python or in another folder is made anew.

    python3 scripts/install.py run      what the platform and the demonstration need
    python3 scripts/install.py test     what the tests need as well
"""

from __future__ import annotations

import configparser
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
MIRROR = "Behind a mirror, set PIP_INDEX_URL to its address"
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
    print("Installing into .venv with " + ("uv" if uv else "pip") + " (750 MB on disk) …", flush=True)
    stamp.unlink(missing_ok=True)
    if VENV.exists() and not _ours():
        shutil.rmtree(VENV)
    if uv:
        groups = ["--group", "dev"] if what == "test" else ["--no-default-groups"]
        _run([uv, "sync", "--frozen", "--all-extras", "--python", sys.executable, *groups])
    else:
        _with_pip(what)
    stamp.write_text(wanted)


def _ours() -> bool:
    """Whether .venv works, is of this Python, and was made here: commands carry the path of their folder."""
    asked = [str(VENV / "bin" / "python"), "-c", "import sys; print(sys.version_info[:2])"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return False
    command = VENV / "bin" / "metier"
    moved = command.exists() and str(VENV).encode() not in command.read_bytes()[:1000]
    return told == str(sys.version_info[:2]) and not moved


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
    page_url = _index().rstrip("/") + "/pip/"
    name = f"pip-{PIP_VERSION}-py3-none-any.whl"
    print(f"This Python has no pip: fetching {name} …", flush=True)
    page = _download(page_url).decode("utf-8")
    found = re.search(rf'href="([^"]*{re.escape(name)}[^"]*)"', page)
    if found is None:
        sys.exit(f"{name} is not on {page_url}. Install python3-venv or uv, then try again.")
    url = urllib.parse.urljoin(page_url, html.unescape(found[1]))
    data = _download(url)
    if hashlib.sha256(data).hexdigest() != PIP_SHA256:
        sys.exit(f"{name} does not have the expected SHA-256: it is not used. Install python3-venv or uv instead.")
    wheel = VENV / name
    wheel.write_bytes(data)
    return wheel


def _index() -> str:
    """The package index pip would use, from the environment or pip's own configuration files."""
    if os.environ.get("PIP_INDEX_URL"):
        return os.environ["PIP_INDEX_URL"]
    home = pathlib.Path.home()
    written = configparser.RawConfigParser()
    written.read(["/etc/pip.conf", home / ".pip" / "pip.conf", home / ".config" / "pip" / "pip.conf"])
    return written.get("global", "index-url", fallback="https://pypi.org/simple")


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return bytes(answer.read())
    except OSError as error:  # no route, no name, no trust, a refusal, silence
        sys.exit(f"fetching {url} failed: {error}. Check the network, then run the same command again. {MIRROR}.")


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
        uv = " and UV_DEFAULT_INDEX" if arguments[0].endswith("uv") else ""
        sys.exit(
            f"\nInstalling failed: the reason stands above. Check the network and the space on the disk, then run the "
            f"same command again: it goes on where it stopped. {MIRROR}{uv}.\n"
            f"(left with {done.returncode}: {' '.join(arguments)})"
        )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nInstalling was interrupted; the same command goes on where it stopped.")
    except OSError as error:
        sys.exit(f"\nInstalling failed: {error}. Mend that, then run the same command again.")
