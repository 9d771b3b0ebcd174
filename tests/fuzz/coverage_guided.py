"""The coverage-guided run: atheris changes bytes until they reach what no bytes have reached.

::

    python tests/fuzz/coverage_guided.py --seconds 600
    python tests/fuzz/coverage_guided.py --seconds 60 --target splitter
    python tests/fuzz/coverage_guided.py --runs 20000
    python tests/fuzz/coverage_guided.py --target splitter --repeat FILE
    python tests/fuzz/coverage_guided.py --keep

Each property gets its share of the time, in a process of its own, and begins with ``corpus`` and
the seeds; with ``--runs`` it is nearly the same search each time, which suits CI. What is found
goes to ``build/fuzz``; ``--keep`` takes into the corpus what reaches something new. Exits 1 where
a property broke, with a line that says how to repeat that, for which atheris is not needed; 2
where it is needed and is not there.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# As pytest has it: modules are found from the directory above.
sys.path[0] = str(HERE.parent)

CORPUS = HERE / "corpus"
WORK = ROOT / "build" / "fuzz"
LONGEST = 8192
"""No input gets longer: what breaks on more breaks on less."""

HANGS_S = 30
"""An input of 8 KiB that takes longer than this is taken for one that hangs."""

_NEEDS = (
    "atheris is not installed, and the coverage-guided run needs it: "
    "make fuzz, or pip install --require-hashes -r requirements/fuzz.txt"
)
_WRITTEN = re.compile(r"Test unit written to (\S+)")
_SHOWN_LINES = 40
_STATISTICS = re.compile(r"stat::(\w+): +(\d+)")


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description="Coverage-guided fuzzing, or one input again.")
    parser.add_argument("--seconds", type=int, default=60, help="for all properties together")
    parser.add_argument("--runs", type=int, help="so many of each, in place of seconds")
    parser.add_argument("--target", help="only this property")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="try one input again")
    parser.add_argument("--keep", action="store_true", help="take what was found into the corpus")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _search(asked.target, asked.seconds, asked.runs)
    from fuzz.properties import PROPERTIES, SHARES  # noqa: PLC0415 - a child must not have them yet

    targets = [asked.target] if asked.target else list(PROPERTIES)
    if unknown := set(targets) - set(PROPERTIES):
        parser.error(f"no property is called {unknown.pop()}; there are {', '.join(PROPERTIES)}")
    if asked.repeat:
        return _repeat(PROPERTIES[targets[0]], asked.repeat)
    if asked.keep:
        return _keep(targets)
    if importlib.util.find_spec("atheris") is None:
        _say(_NEEDS)
        return 2
    parts = sum(SHARES.get(target, 1) for target in targets)
    shares = {t: max(1, asked.seconds * SHARES.get(t, 1) // parts) for t in targets}
    broken = [target for target, seconds in shares.items() if not _run(target, seconds, asked.runs)]
    _say(f"BROKEN: {', '.join(broken)}" if broken else "No property broke.")
    return bool(broken)


def _run(target: str, seconds: int, runs: int | None) -> bool:
    """Run one search in its own process; say whether its property held."""
    from fuzz.seeds import SEEDS  # noqa: PLC0415 - as above

    place = WORK / target
    for name in ("found", "seeds", "broken"):
        (place / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place / "seeds")
    (place / "seeds").mkdir()
    for seed in SEEDS[target]():
        (place / "seeds" / named(seed)).write_bytes(seed)
    command = [sys.executable, __file__, "--child", "--target", target, "--seconds", str(seconds)]
    command += ["--runs", str(runs)] if runs else []
    log = place / "log"
    fixed = {**os.environ, "PYTHONHASHSEED": "0"}
    with log.open("wb") as output:
        ended = subprocess.run(command, stdout=output, stderr=output, check=False, env=fixed)  # noqa: S603 - it is this file
    code = ended.returncode
    text = log.read_text("utf-8", "replace")
    told = dict(_STATISTICS.findall(text))
    kept = sum(1 for _ in (place / "found").iterdir())
    _say(
        f"{target:10}{seconds:5} s{told.get('number_of_executed_units', '?'):>10} runs{kept:6} kept"
    )
    if code:
        _tell(target, text)
    return not code


def _tell(target: str, text: str) -> None:
    """Say what broke, and how to repeat it."""
    lines = [line for line in text.splitlines() if not line.startswith("INFO: Instrumenting")]
    _say("\n".join(lines[-_SHOWN_LINES:]))
    for path in _WRITTEN.findall(text):
        again = f"{sys.executable} {Path(__file__).resolve().relative_to(ROOT)}"
        _say(f"TO REPEAT: {again} --target {target} --repeat {Path(path).relative_to(ROOT)}")


def _search(target: str, seconds: int, runs: int | None) -> None:
    """Search for one property, as a child; never returns."""
    import atheris  # noqa: PLC0415 - a choice of the user

    from fuzz import words  # noqa: PLC0415 - nothing of the proxy may be known before

    place = WORK / target
    dictionary = place / "dictionary"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in words.OF[target]))
    with atheris.instrument_imports(include=["proxy"]):
        from fuzz.properties import PROPERTIES  # noqa: PLC0415 - instrumented on its way in

    options = {
        **({"runs": runs, "seed": 1} if runs else {"max_total_time": seconds}),
        "max_len": LONGEST,
        "timeout": HANGS_S,
        "dict": dictionary,
        "artifact_prefix": f"{place / 'broken'}/",
        "print_final_stats": 1,
    }
    places = [place / "found", place / "seeds", CORPUS / target]
    there = [str(path) for path in places if path.is_dir()]
    arguments = [*(f"-{name}={value}" for name, value in options.items()), *there]
    atheris.Setup([sys.argv[0], *arguments], PROPERTIES[target])
    atheris.Fuzz()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _repeat(check: Callable[[bytes], None], path: Path) -> int:
    """Try one input; what it breaks is raised."""
    check(path.read_bytes())
    _say(f"{path}: the property holds")
    return 0


def _keep(targets: list[str]) -> int:
    """Take what was found, and the seeds, into the corpus, as far as it is worth it."""
    from fuzz.keeping import worth_keeping  # noqa: PLC0415 - it traces what is imported later
    from fuzz.properties import PROPERTIES  # noqa: PLC0415 - the same
    from fuzz.seeds import SEEDS  # noqa: PLC0415 - the same

    for target in targets:
        kept = CORPUS / target
        kept.mkdir(parents=True, exist_ok=True)
        paths = [*sorted(kept.iterdir()), *sorted((WORK / target / "found").glob("*"))]
        inputs = {path.read_bytes() for path in paths} | set(SEEDS[target]())
        chosen = worth_keeping(PROPERTIES[target], inputs)
        for path in kept.iterdir():
            path.unlink()
        for data in chosen:
            (kept / named(data)).write_bytes(data)
        shutil.rmtree(WORK / target / "found", ignore_errors=True)
        size = sum(map(len, chosen))
        _say(f"{target:10}{len(inputs):7} inputs{len(chosen):6} kept{size:9} bytes")
    return 0


def named(data: bytes) -> str:
    """Name an input by what it is."""
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
