"""Installs the proxies to compare with into .tools/peers, from the ordinary registries.

Python packages and the Node package have the versions that the files beside this one name; those of
Debian are what the release at hand has, which is all that its archive keeps. Nothing of it is installed
into the system, nothing is started, and what is there already is left alone.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOOLS = ROOT / ".tools" / "peers"


class Missing(Exception):
    """A peer that cannot be had here, and why."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*args, both: bool = False, **options) -> str:
    """What a command says, on `both` outputs if wanted; Missing, with its last words, if it fails."""
    try:
        done = subprocess.run(
            [str(arg) for arg in args], check=True, text=True, stdout=-1, stderr=-1, **options
        )
    except FileNotFoundError as error:
        raise Missing(f"{args[0]} is not there") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines() or ["nothing"]
        raise Missing(f"{Path(args[0]).name} failed: {said[-1]}") from error
    return done.stdout + (done.stderr if both else "")


def fresh(source: Path, place: Path) -> bool:
    """Whether what was installed from this file is still what it says."""
    stamp = place / "installed"
    return stamp.exists() and stamp.read_text() == digest(source)


def digest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()


def python(name: str) -> Path:
    """A virtual environment with what `name`.txt lists."""
    source, place = HERE / f"{name}.txt", TOOLS / name
    if not fresh(source, place):
        say(f"installing {name} from PyPI")
        run(sys.executable, "-m", "venv", "--clear", place)
        pip = [place / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # The file names everything there is, so nothing may be added.
        run(*pip, "--no-deps", "--requirement", source)
        (place / "installed").write_text(digest(source))
    return place


def node(name: str) -> Path:
    """A folder with what the lock file of `name` lists."""
    lock, place = HERE / name / "package-lock.json", TOOLS / name
    if not fresh(lock, place):
        say(f"installing {name} from npm")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for file in (lock, lock.with_name("package.json")):
            shutil.copy(file, place)
        run("npm", "ci", "--omit=dev", "--ignore-scripts", "--loglevel=error", cwd=place)
        (place / "installed").write_text(digest(lock))
    return place


def debian(program: str) -> tuple[Path, dict[str, str]]:
    """A program of Debian's package of the same name, and the environment that it needs.

    Only the files of the package: installing it would start a server.
    """
    for folder in (*os.environ["PATH"].split(":"), "/usr/sbin"):
        if os.access(found := Path(folder) / program, os.X_OK):
            return found, {}
    place = TOOLS / "debian" / program
    if not (place / "installed").exists():
        say(f"downloading {program} from Debian")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        unpack(program, place, set())
        (place / "installed").touch()
    libraries = {str(found.parent) for found in place.glob("usr/lib/**/*.so*")}
    return place / "usr/sbin" / program, {"LD_LIBRARY_PATH": ":".join(sorted(libraries))}


def unpack(package: str, place: Path, seen: set[str]) -> None:
    """Puts a package into a folder, with those libraries it needs that the system does not have."""
    seen.add(package)
    try:
        run("apt-get", "download", "-qq", package, cwd=place)
    except Missing:
        as_root = [] if os.geteuid() == 0 else ["sudo"]
        run(*as_root, "apt-get", "update", "-qq")
        run("apt-get", "download", "-qq", package, cwd=place)
    (file,) = place.glob(f"{package}_*.deb")
    run("dpkg-deb", "-x", file, place)
    for needed in re.findall(r"(?:^|, )(lib[^ ,|]+)", run("dpkg-deb", "-f", file, "Depends")):
        if needed not in seen and not there(needed):
            unpack(needed, place, seen)


def there(package: str) -> bool:
    try:
        return "install ok installed" in run("dpkg-query", "-W", "-f", "${Status}", package)
    except Missing:
        return False


def gateway() -> Path:
    """The program of `cargo bench --bench gateway`, which has the other roles."""
    return benchmark("gateway")


def benchmark(name: str) -> Path:
    """The program of a benchmark: a variable like GATEWAY_BENCH names one that is there already."""
    if ready := os.environ.get(f"{name.upper()}_BENCH"):
        return Path(ready)
    say(f"building the benchmark (cargo bench --bench {name} --no-run)")
    args = ["cargo", "bench", "--locked", "--quiet", "--bench", name]
    said = subprocess.run(
        [*args, "--no-run", "--message-format=json"], cwd=ROOT, check=True, stdout=-1, text=True
    ).stdout
    messages = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    (found,) = (
        message["executable"]
        for message in messages
        if message.get("executable") and message["target"]["name"] == name
    )
    return Path(found)


def tidegate() -> Path:
    """The binary: TIDEGATE_BIN, or the one that is shipped, built where it is not."""
    if ready := os.environ.get("TIDEGATE_BIN"):
        return Path(ready)
    run(ROOT / "release" / "build", "--quiet")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "tidegate"
