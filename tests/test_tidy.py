"""The style of the code base as a test: sizes, names, arrows between libraries, and what no file may hold.

Held here: the limits as data, one function per rule, and a bad example per rule that proves it bites.
Not held here: what ruff, mypy and import-linter say better (`make lint`), and what README, CHANGELOG and the
requirements promise (`test_project`). A rule names what it found as `file:line: rule: what`.
No exemptions for vendors.
"""

from __future__ import annotations

import ast
import fnmatch
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

import providers

ROOT = Path(__file__).parents[1]
CODE = ("gateway", "providers", "tests", "deploy")
PRODUCT = ("gateway", "providers")

FILE_LINES = 400
FUNCTION_LINES = 50  # from `def` to the last line, the docstring not counted
PARAMETERS = 6  # self and cls not counted
NESTING = 4  # if, for, while, with, try, match in one function; elif and except stand beside their head
LINE_CHARS = 110

VAGUE = {"util", "utils", "helper", "helpers", "common", "manager", "managers", "misc"}

TOP_LEVEL = (
    "pyproject.toml", "gateway", "providers", "tests", "deploy", "openapi", "README.md", "CHANGELOG.md",
    "SECURITY.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "requirements*.txt", ".*",
)

# Library: the modules and packages that may import it. Each can be replaced by editing the files named here.
ONLY_IN = {
    "litestar": ("gateway.api",),
    "asyncpg": ("gateway.storage",),
    "obstore": ("gateway.storage",),
    "httpx": (
        "providers", "gateway.engine.collect", "gateway.engine.webhooks", "gateway.client",
        "gateway.__main__",
    ),
    "aiohttp": ("providers.transport",),
    "sqlite3": ("gateway.storage",),
    "structlog": ("gateway.logs",),
    "uvloop": ("gateway.app",),
    "prometheus_client": ("gateway.metrics", "gateway.telemetry"),
    "av": ("gateway.sandbox",),
    "jsonschema": ("gateway.sandbox",),
    "multipart": ("gateway.api.forms",),
    "opentelemetry": ("gateway.tracing",),
}

# What an adapter (a module of providers/ that defines INFO) may import beside the standard library: the
# language, the door, and the protocols that several vendors share.
ADAPTER_MAY_IMPORT = ("msgspec", "providers.spec", "providers.http", "providers.v3_async")

# Imported or called: ways to run what came from outside, or to start a process.
DANGEROUS = {
    "eval", "exec", "compile", "__import__", "yaml.load", "pickle", "marshal", "shelve", "subprocess",
    "os.system", "os.popen", "os.fork", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell",
}
# (file, name): why it may.
ALLOWED = {
    ("gateway/sandbox/demo.py", "subprocess"): "the demo starts the sandbox and the gateway as a user would",
    ("gateway/sandbox/demo.py", "asyncio.create_subprocess_exec"): "likewise",
}

# Written so that this file does not hold what it looks for.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
ELSEWHERE = re.compile(
    r"(?<![\w.:/-])/(?:work|home|root|Users)" + r"/"  # a path of somebody's machine
    r"|\bpypi\." + r"org|pythonhosted\." + r"org|registry\.npmjs\." + r"org|\bproxy\.golang\." + r"org"
    r"|--(?:extra-)?index-" + r"url|--find-" + r"links",
)

Problem: TypeAlias = str


class Source(NamedTuple):
    """One Python file: its path below the root, its text and its tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """The dotted name that an import would use."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def problem(self, node: ast.AST | int, rule: str, what: str) -> Problem:
        """`file:line: rule: what`."""
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return f"{self.path}:{line}: {rule}: {what}"


def source(path: str, text: str) -> Source:
    """Parse `text` as the file `path`. Raises SyntaxError with that name."""
    return Source(path, text, ast.parse(text, path))


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the glob `patterns` describes `name`."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@cache
def tracked() -> tuple[str, ...]:
    """Every file that git would track: all but .git and what .gitignore names (names and globs, no paths)."""
    patterns = (ROOT / ".gitignore").read_text("utf-8").split()
    files = [".git", *(pattern for pattern in patterns if not pattern.endswith("/"))]
    folders = [".git", *(pattern.strip("/") for pattern in patterns if pattern.endswith("/"))]

    def kept(names: list[str], ignored: list[str]) -> list[str]:
        return sorted(name for name in names if not fits(name, ignored))

    found: list[str] = []
    for folder, below, names in os.walk(ROOT):
        below[:] = kept(below, folders)
        found += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in kept(names, files)]
    return tuple(found)


@cache
def sources() -> tuple[Source, ...]:
    """The Python files of the product and of its tests."""
    code = [path for path in tracked() if path.endswith(".py") and path.split("/")[0] in CODE]
    return tuple(source(path, (ROOT / path).read_text("utf-8")) for path in code)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of names, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every import at any depth as dotted names; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node, node.module
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def within(module: str, packages: tuple[str, ...]) -> bool:
    """Whether `module` is one of `packages` or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def defines_info(tree: ast.Module) -> bool:
    """Whether the module assigns INFO at its top level, which makes it an adapter."""
    targets = [
        target
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    return any(isinstance(target, ast.Name) and target.id == "INFO" for target in targets)


def file_length(file: Source) -> Iterator[Problem]:
    lines = len(file.text.splitlines())
    if lines > FILE_LINES:
        yield file.problem(lines, "file length", f"{lines} lines, at most {FILE_LINES}")


def line_length(file: Source) -> Iterator[Problem]:
    for number, line in enumerate(file.text.splitlines(), 1):
        if len(line) > LINE_CHARS:
            yield file.problem(number, "line length", f"{len(line)} characters, at most {LINE_CHARS}")


def function_length(file: Source) -> Iterator[Problem]:
    for function in functions(file.tree):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if ast.get_docstring(function) is not None:
            docstring = function.body[0]
            lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
        if lines > FUNCTION_LINES:
            what = f"{function.name} has {lines} lines, at most {FUNCTION_LINES}"
            yield file.problem(function, "function length", what)


def parameters(file: Source) -> Iterator[Problem]:
    for function in functions(file.tree):
        declared = function.args
        names = [arg.arg for arg in (*declared.posonlyargs, *declared.args, *declared.kwonlyargs)]
        names += [arg.arg for arg in (declared.vararg, declared.kwarg) if arg is not None]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > PARAMETERS:
            yield file.problem(function, "parameters", f"{function.name} takes {count}, at most {PARAMETERS}")


_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)


def _depths(node: ast.AST, depth: int) -> Iterator[tuple[ast.AST, int]]:
    """Each block below `node` with its depth; a nested function begins anew."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        elif_ = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deeper = depth + (isinstance(child, _BLOCKS) and not elif_)
        if isinstance(child, _BLOCKS):
            yield child, deeper
        yield from _depths(child, deeper)


def nesting(file: Source) -> Iterator[Problem]:
    for function in functions(file.tree):
        for block, depth in _depths(function, 0):
            if depth == NESTING + 1:
                yield file.problem(block, "nesting", f"{depth} deep in {function.name}, at most {NESTING}")


def vague_names(file: Source) -> Iterator[Problem]:
    for part in file.path.removesuffix(".py").split("/"):
        for word in sorted(VAGUE.intersection(part.split("_"))):
            yield file.problem(1, "vague name", f"{word!r} says nothing of what is inside")


def module_docstring(file: Source) -> Iterator[Problem]:
    if not ast.get_docstring(file.tree):
        yield file.problem(1, "module docstring", "says neither what it holds nor what it does not")


def silent_errors(file: Source) -> Iterator[Problem]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield file.problem(node, "silent error", "a bare except takes cancellation too")
        if isinstance(node, ast.ExceptHandler) and all(map(_does_nothing, node.body)):
            yield file.problem(node, "silent error", "an empty handler; contextlib.suppress says more")
        if isinstance(node, ast.Call) and dotted(node.func).endswith("suppress"):
            for broad in sorted({"Exception", "BaseException"}.intersection(map(dotted, node.args))):
                yield file.problem(node, "silent error", f"suppresses every {broad}")


def _does_nothing(step: ast.stmt) -> bool:
    return isinstance(step, ast.Pass) or (isinstance(step, ast.Expr) and isinstance(step.value, ast.Constant))


def dangerous(file: Source) -> Iterator[Problem]:
    if not within(file.module, PRODUCT):
        return
    calls = ((node, dotted(node.func)) for node in ast.walk(file.tree) if isinstance(node, ast.Call))
    for node, name in (*imports(file.tree), *calls):
        if name in DANGEROUS and (file.path, name) not in ALLOWED:
            yield file.problem(node, "dangerous", f"{name}; if it must be, say why in ALLOWED")


def library_homes(file: Source) -> Iterator[Problem]:
    if not within(file.module, PRODUCT):
        return
    for node, library in {(node, name.split(".")[0]) for node, name in imports(file.tree)}:
        homes = ONLY_IN.get(library)
        if homes is not None and not within(file.module, homes):
            yield file.problem(node, "library home", f"{library} is imported only in {', '.join(homes)}")


def adapter_imports(file: Source) -> Iterator[Problem]:
    if not (file.path.startswith("providers/") and defines_info(file.tree)):
        return
    for node, name in imports(file.tree):
        standard = name.split(".")[0] in sys.stdlib_module_names
        if not (standard or name == "providers" or within(name, ADAPTER_MAY_IMPORT)):
            what = f"{name}; an adapter knows spec, http, its protocol file and msgspec"
            yield file.problem(node, "adapter import", what)


Rule: TypeAlias = Callable[[Source], Iterator[Problem]]

RULES: tuple[Rule, ...] = (
    file_length, line_length, function_length, parameters, nesting, vague_names, module_docstring,
    silent_errors, dangerous, library_homes, adapter_imports,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_code_is_tidy(rule: Rule) -> None:
    problems = [problem for file in sources() for problem in rule(file)]
    assert not problems, "\n" + "\n".join(problems)


_DEEP = "def f(x):\n" + "".join(f"{'  ' * depth}if x:\n" for depth in range(1, 6)) + "  " * 6 + "f(x)\n"
_FLAT = "def f(x):\n" + "".join(f"  {word} x:\n    f(x)\n" for word in ("if", *["elif"] * 9))

# A rule, what breaks it, and what does not, in gateway/x.py (an adapter: in providers/x.py).
EXAMPLES: tuple[tuple[Rule, str, str], ...] = (
    (file_length, "x = 1\n" * 401, "x = 1\n" * 400),
    (line_length, "#" * 111, "#" * 110),
    (function_length, "def f():\n" + "  f()\n" * 50, 'def f():\n  """Doc."""\n' + "  f()\n" * 49),
    (parameters, "def f(a, b, c, d, *e, g, **h): ...", "def f(self, a, b, c, d, *e, g): ..."),
    (nesting, _DEEP, _FLAT),
    (module_docstring, "x = 1", '"""What it holds."""'),
    (silent_errors, "try:\n  f()\nexcept OSError:\n  pass", "try:\n  f()\nexcept OSError:\n  g()"),
    (silent_errors, "try:\n  f()\nexcept:\n  g()", "try:\n  f()\nfinally:\n  g()"),
    (silent_errors, "with contextlib.suppress(Exception):\n  f()", "with suppress(KeyError):\n  f()"),
    (dangerous, "def f():\n  from subprocess import run", "import sys"),
    (dangerous, "eval('1')", "re.compile('1')"),
    (library_homes, "from litestar.handlers import get", "import msgspec"),
    (library_homes, "import httpx", "from providers import spec"),
    (adapter_imports, "INFO = 1\nimport httpx", "import httpx"),
    (adapter_imports, "INFO = 1\nfrom providers import transport", "INFO = 1\nimport providers.spec"),
)


@pytest.mark.parametrize(("rule", "bad", "good"), EXAMPLES)
def test_rule_bites(rule: Rule, bad: str, good: str) -> None:
    path = "providers/x.py" if rule is adapter_imports else "gateway/x.py"
    assert list(rule(source(path, bad)))
    assert not list(rule(source(path, good)))


def test_vague_names_are_found_in_files_and_folders() -> None:
    assert list(vague_names(source("gateway/task_utils.py", "")))
    assert list(vague_names(source("gateway/common/tasks.py", "")))
    assert not list(vague_names(source("gateway/core/commonness.py", "")))


def text_problems(path: str, text: str) -> Iterator[Problem]:
    """What no tracked file may hold, whatever its kind."""
    for number, line in enumerate(text.splitlines(), 1):
        for rule, pattern in (("unfinished", UNFINISHED), ("elsewhere", ELSEWHERE)):
            found = pattern.search(line)
            if found:
                yield f"{path}:{number}: {rule}: {found.group()}"


def test_no_file_is_unfinished_or_points_at_one_machine() -> None:
    problems: list[Problem] = []
    for path in tracked():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:  # pictures and the like
            problems += text_problems(path, content.decode("utf-8"))
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("# TO" + "DO later", True),
        ("see /wo" + "rk/notes", True),
        ("a == 1 --index-" + "url x", True),
        ("https://files.pythonhosted." + "org/x", True),
        ("POST https://example.test/work/items, compile --no-emit-index-url", False),
    ],
)
def test_text_rule_bites(line: str, bad: bool) -> None:
    assert bool(list(text_problems("x", line))) is bad


def test_top_level_holds_only_what_the_floor_plan_names() -> None:
    top = {path.split("/")[0] for path in tracked()}
    strangers = sorted(name for name in top if not fits(name, TOP_LEVEL))
    assert not strangers, [f"{name}:1: top level: not in the floor plan" for name in strangers]


def test_every_adapter_is_in_the_register() -> None:
    adapters = [file for file in sources() if file.path.startswith("providers/") and defines_info(file.tree)]
    listed = providers.ADAPTERS
    missing = [file for file in adapters if importlib.import_module(file.module).INFO not in listed]
    assert not missing, [f"{file.path}:1: register: no line in providers/__init__.py" for file in missing]
