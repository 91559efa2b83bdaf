# The template's file: `copier update` replaces it. Yours is everything outside llmgine/.
"""The runtime stands on its own, its rooms import downwards only, and nobody edited it."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
RUNTIME = next(PROJECT.glob("src/*/llmgine"))
FLOORS = [
    {"errors"},
    {"clock", "contracts", "messages", "settings", "sqlite_file", "threads"},
    {"delivery", "observability", "tokens"},
    {"bus", "context", "llm", "tools"},
    {"engine"},
    {"application"},
    {"interfaces", "testing"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = sorted(
    path.relative_to(RUNTIME).as_posix()
    for path in RUNTIME.rglob("*")
    if path.suffix in {".py", ".pyi"}
)
IN_ROOMS = [source for source in SOURCES if not source.startswith("__init__.")]


def test_the_runtime_imports_nothing_of_the_application() -> None:
    outside = [source for source in SOURCES if None in _imports(source)]

    assert not outside, f"{outside} reach outside llmgine/"


def test_a_room_of_the_runtime_imports_only_the_rooms_below_it() -> None:
    arrows = {(_room(source), target) for source in IN_ROOMS for target in _imports(source)}
    upward = sorted(f"{a} -> {b}" for a, b in arrows if b and a != b and LEVEL[a] <= LEVEL[b])

    assert not upward, "an import that goes up, or to a room on the same floor"


def test_the_runtime_is_as_the_template_made_it() -> None:
    lines = (RUNTIME / "MANIFEST").read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    edited = [name for name, digest in expected.items() if _hash(RUNTIME / name) != digest]

    assert not edited, (
        f"{edited} under llmgine/ were edited or deleted; the next update may conflict there. "
        "Undo it, or delete this test if you mean to keep your own copy of the runtime."
    )


def _room(source: str) -> str:
    return source.split("/")[0].split(".")[0]


def _imports(source: str) -> Iterator[str | None]:
    """The room of each import within the project, or None for one that leaves the runtime."""
    depth = source.count("/") + 1
    tree = ast.parse((RUNTIME / source).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (None for name in node.names if _is_ours(name.name))
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (None for _ in node.names if _is_ours(node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            here = [RUNTIME.name, *source.split("/")[:-1]][: depth - node.level + 1]
            path = here + (node.module.split(".") if node.module else [])
            ends = [path] if len(path) > 1 else [[*path, name.name] for name in node.names]
            yield from (end[1] if node.level <= depth else None for end in ends)


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in {RUNTIME.parent.name, RUNTIME.name}


def _hash(path: Path) -> str | None:
    if not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
