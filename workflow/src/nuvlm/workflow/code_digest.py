"""Digest of the code that a rule computes with: every definition of the package that its script can reach.

Rules have it among their parameters, so that an edit reruns exactly the rules that use what was edited. Comments,
docstrings, format, log lines and the text of an InputError change no result and are not part of it.

How definitions are found: every name in the script, and in each definition found, that is bound by an import from this
package or at the top of the same module. Names looked up at run time (``getattr``, a reader's name in a table) are
invisible here; pass them as `entries`.
"""

import ast
import hashlib
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeGuard

PACKAGE = Path(__file__).parents[1]
WITHOUT_EFFECT = frozenset(
    {"nuvlm.base.errors", "nuvlm.base.kernels", "nuvlm.base.logs", "nuvlm.models.memory", "nuvlm.models.power"}
)
"""Modules that change no result: logs, error types, what keeps compiled code, and measurement of memory and power."""


class Definition(NamedTuple):
    """A name at the top of a module."""

    module: str
    name: str
    """``*`` for the statements that run on import: calls, also those whose result is bound to a name."""


class _Code(ast.NodeTransformer):
    """Code without what changes no result, and all that it names, from one walk through it.

    Args:
        tree: a statement at the top of a module, or a whole script; it is changed.
    """

    tree: ast.AST
    """None if nothing is left."""

    def __init__(self, tree: ast.stmt | ast.Module) -> None:
        self.imports: dict[str, Definition | str] = {}
        """Name -> the definition, or the module, of this package that it stands for."""
        self.names: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        """Name, and what is looked up in it."""
        self.tree = self.visit(tree)

    def uses(self, imports: Mapping[str, Definition | str], bound: Container[str], module: str) -> Iterator[Definition]:
        """The definitions of the package that it names, where a module has these imports and binds these names."""
        imports = {**imports, **self.imports}
        for target in self.imports.values():
            yield Definition(target, "*") if isinstance(target, str) else target
        for name, attribute in self.attributes:
            owner = imports.get(name)
            if isinstance(owner, str):
                yield Definition(owner, attribute)
        for name in self.names:
            imported = imports.get(name)
            if isinstance(imported, Definition):
                yield imported
            elif name in bound:
                yield Definition(module, name)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        self.names.add(node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if isinstance(node.value, ast.Name):
            self.attributes.add((node.value.id, node.attr))
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST:
        self.imports.update(_imported(node))
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        self.imports.update(_imported(node))
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return node  # faster than Python's own, which looks for deprecated names of this method

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):  # a docstring
            return None
        call = node.value.func if isinstance(node.value, ast.Call) else None
        if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "logger":
            return None
        return self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "InputError":
            return self.visit_Name(node.func)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | Iterable[ast.AST]:
        if _checks_types(node):
            return [item for statement in node.orelse if (item := self.visit(statement)) is not None]
        return self.generic_visit(node)


class _Module:
    """A module's definitions, their text and what they use, worked out when they are asked for."""

    def __init__(self, name: str, text: str) -> None:
        codes = [code for item in _at_run_time(ast.parse(text, filename=name).body) if (code := _Code(item)).tree]
        self.name = name
        self.imports = {bound: target for code in codes for bound, target in code.imports.items()}
        """Name -> the definition, or the module, of this package that it stands for, for every import in it."""
        self.bindings: dict[str, list[_Code]] = {}
        """Name -> the statements that bind it, without imports; ``*`` -> those that run on import."""
        functions = {*self.imports, *(code.tree.name for code in codes if isinstance(code.tree, ast.FunctionDef))}
        for code in codes:
            statement = code.tree
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                names = _bound(statement)
                # ``X = f()`` runs f on import, whether or not X is used.
                runs = not names or (isinstance(statement, ast.Assign | ast.AnnAssign) and _calls(statement, functions))
                for bound in [*names, "*"] if runs else names:
                    self.bindings.setdefault(bound, []).append(code)
        self.source = cache(self._source)
        self.uses = cache(self._uses)

    def _source(self, name: str) -> str:
        return "\n".join(_text(code.tree) for code in self.bindings.get(name, []))

    def _uses(self, name: str) -> frozenset[Definition]:
        codes = self.bindings.get(name, [])
        return frozenset(used for code in codes for used in code.uses(self.imports, self.bindings, self.name))


def code_digest(script: Path, *entries: str) -> str:
    """SHA-256 of a script and of every definition that it can reach.

    Args:
        script: Python file outside the package.
        entries: further definitions that it uses, as ``nuvlm.package.module:name``.
    """
    digest = hashlib.sha256(_text(_Code(ast.parse(script.read_text())).tree).encode())
    for definition in sorted(reachable(script, *entries)):
        digest.update("\n".join([*definition, _load(definition.module).source(definition.name)]).encode())
    return digest.hexdigest()


def reachable(script: Path, *entries: str) -> set[Definition]:
    """The definitions of the package that a script can reach (see :func:`code_digest`)."""
    queue = [Definition(*entry.split(":")) for entry in entries]
    queue += _Code(ast.parse(script.read_text())).uses({}, (), "")
    found: set[Definition] = set()
    while queue:
        definition = queue.pop()
        if definition in found or definition.module in WITHOUT_EFFECT:
            continue
        module = _load(definition.module)
        target = module.imports.get(definition.name)
        if target is not None:  # imported there from elsewhere
            queue.append(Definition(target, "*") if isinstance(target, str) else target)
            continue
        found.add(definition)
        if definition.name != "*":
            # Importing a module runs its statements, and those of the modules that it imports.
            queue.append(Definition(definition.module, "*"))
        else:
            imported = module.imports.values()
            queue += [Definition(item if isinstance(item, str) else item.module, "*") for item in imported]
        queue += module.uses(definition.name)
    return {definition for definition in found if _load(definition.module).source(definition.name)}


def _load(name: str) -> _Module:
    path = _path(name)
    if path is None:
        raise ModuleNotFoundError(f"no module {name} in {PACKAGE}")
    return _analysed(name, _read(path))


@cache
def _read(path: Path) -> str:
    return path.read_text()


@cache
def _analysed(name: str, text: str) -> _Module:
    return _Module(name, text)


@cache
def _path(name: str) -> Path | None:
    """The file of a module of this package; None for a package or any other name."""
    package, *parts = name.split(".")
    path = PACKAGE.joinpath(*parts).with_suffix(".py")
    return path if package == PACKAGE.name and parts and path.is_file() else None


def _at_run_time(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, without those for a type checker."""
    for statement in statements:
        if _checks_types(statement):
            yield from statement.orelse
        else:
            yield statement


def _checks_types(statement: ast.stmt) -> TypeGuard[ast.If]:
    return (
        isinstance(statement, ast.If) and isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
    )


def _bound(statement: ast.AST) -> list[str]:
    """The names that a statement at the top of a module binds; none if it does more than that, as a call does."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        elements = [e for target in targets for e in (target.elts if isinstance(target, ast.Tuple) else [target])]
        if all(isinstance(element, ast.Name) for element in elements):
            return [element.id for element in elements if isinstance(element, ast.Name)]
    return []


def _calls(tree: ast.AST, functions: set[str]) -> bool:
    """Whether the code below `tree` calls one of these names, or an attribute of one."""
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(node.id in functions for func in called for node in ast.walk(func) if isinstance(node, ast.Name))


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Definition | str]]:
    """Name -> what it stands for in this package."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            if _path(alias.name):
                yield alias.asname or alias.name, alias.name
        elif node.module:
            submodule = f"{node.module}.{alias.name}"
            if _path(submodule):
                yield alias.asname or alias.name, submodule
            elif _path(node.module):
                yield alias.asname or alias.name, Definition(node.module, alias.name)


def _text(tree: ast.AST) -> str:
    # Not ast.dump, whose text changes between versions of Python.
    return ast.unparse(tree)
