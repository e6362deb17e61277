"""The documents are complete: what they list is what there is."""

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from audit.record import Kind
from exchange.api.problems import PROBLEMS
from exchange.app import build_app
from exchange.settings import Settings, parse_settings
from schemas.documented import said_under

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@cache
def read(name: str) -> str:
    """Return a document."""
    return (ROOT / name).read_text(encoding="utf-8")


def rows(document: str, pattern: str) -> list[Any]:
    """Return what matches a pattern in the lines of a document."""
    return re.findall(pattern, read(f"docs/{document}.md"), re.MULTILINE)


@cache
def contract() -> dict[str, Any]:
    """Return the OpenAPI document that a gateway serves."""
    app = build_app(parse_settings("", {}, ROOT))
    made: dict[str, Any] = orjson.loads(orjson.dumps(app.openapi()))
    return made


def test_the_published_contract_is_the_one_that_is_served() -> None:
    """`docs/openapi.json` is made anew and compared, member by member."""
    committed = orjson.loads(read("docs/openapi.json"))

    assert contract() == committed, (
        "the API has changed: write the document anew with "
        "`errand openapi > docs/openapi.json`"
    )


def test_every_route_is_documented_with_its_scope() -> None:
    """`docs/api.md` lists each route, and what token it takes."""
    listed = dict(
        re.findall(
            r"^\| `([A-Z]+ [^`]+)` \| ([^|]+) \|", read("docs/api.md"), re.MULTILINE
        )
    )
    served = {
        f"{method.upper()} {path}": _scope(operation)
        for path, operations in contract()["paths"].items()
        for method, operation in operations.items()
    }

    assert served == listed


def _scope(operation: dict[str, Any]) -> str:
    if "security" not in operation:
        return "everybody"
    scopes = [scope for one in operation["security"] for scope in one["oauth2"]]
    return ", ".join(f"`{scope}`" for scope in scopes) or "any"


def test_every_operation_has_a_name_and_says_what_it_does() -> None:
    """Generated clients get readable names, and no two are the same."""
    operations = [
        operation
        for operations in contract()["paths"].values()
        for operation in operations.values()
    ]
    names = [operation["operationId"] for operation in operations]

    assert len(set(names)) == len(names)
    assert all(operation["description"] for operation in operations)


def test_every_problem_is_documented_with_its_status() -> None:
    """`docs/problems.md` lists exactly the types that the API answers with."""
    listed = re.findall(
        r"^## (\S+)\n\n(\d+) · (.+)$", read("docs/problems.md"), re.MULTILINE
    )

    assert listed == [(p.slug, str(p.status), p.title) for p in PROBLEMS]


def test_every_setting_is_documented() -> None:
    """`docs/settings.md` has a row for each key, in order, with its own words."""
    listed = re.findall(
        r"^\| `(\w+)` \| .+? \| (.+) \|$", read("docs/settings.md"), re.MULTILINE
    )
    said = said_under(Settings)
    declared = [
        (name, " ".join(said.get(name, "").split())) for name in Settings.model_fields
    ]

    assert declared == listed


def test_every_kind_of_record_is_documented() -> None:
    """`docs/records.md` lists exactly the closed list of kinds."""
    listed = rows("records", r"^\| `([a-z.]+)` \|")

    assert sorted(listed) == sorted(kind.value for kind in Kind)


def test_every_dependency_has_its_reason() -> None:
    """`docs/dependencies.md` lists what `pyproject.toml` does, and says why."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    run, develop = read("docs/dependencies.md").split("## To develop")

    for listed, declared in (
        (run, project["dependencies"]),
        (develop, project["optional-dependencies"]["dev"]),
    ):
        rows = re.findall(r"^\| ([\w-]+) \| (.+) \|$", listed, re.MULTILINE)
        names = [name for name, _ in rows if name != "library"]

        assert names == [re.split(r"[\[>=<]", one)[0] for one in declared]


def test_the_lock_holds_every_dependency_with_hashes_and_no_address() -> None:
    """Two commands on a fresh machine get exactly what was tested (decision 25)."""
    lock = read("requirements.lock")
    pinned = set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[\[>=<]", one)[0].lower() for one in wanted}

    assert names <= {name.lower() for name in pinned}
    assert lock.count("--hash=sha256:") >= len(pinned)
    assert "://" not in lock


def _modules() -> list[Path]:
    rooms = ("schemas", "connectors", "consent", "audit", "exchange")
    return [
        file
        for room in rooms
        for file in sorted((ROOT / room).rglob("*.py"))
        if "versions" not in file.parts
    ]


def test_package_files_are_empty() -> None:
    """Nothing hides in an `__init__`, so nothing can import in a circle."""
    full = [str(file) for file in _modules() if _is_full_init(file)]

    assert full == []


def _is_full_init(file: Path) -> bool:
    return file.name == "__init__.py" and file.stat().st_size > 0


def test_no_function_is_longer_than_sixty_lines() -> None:
    """Depth is fine, long functions are not; a docstring counts too."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    too_long = [
        f"{file.relative_to(ROOT)}: {node.name}: {length}"
        for file in _modules()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, kinds)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > 60
    ]

    assert too_long == []


def test_python_is_new_enough() -> None:
    """What `pyproject.toml` promises is what the tests run on."""
    assert sys.version_info >= (3, 11)
