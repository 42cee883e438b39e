"""Edits that change results change the digest of the rules that use what was edited, and nothing else does.

Properties of all scripts and modules: none is named here, so a new one is covered and a renamed one needs no edit.
"""

import ast
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nuvlm.workflow import code_digest
from nuvlm.workflow.code_digest import Definition, reachable
from nuvlm.workflow.config import Config
from paths import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "workflow" / "scripts").glob("*.py"))
PACKAGE = code_digest.PACKAGE


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package that digests are taken of."""
    copy = shutil.copytree(PACKAGE, tmp_path / "nuvlm", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_digest, "PACKAGE", copy)
    forget()
    yield copy
    forget()


def forget() -> None:
    code_digest._read.cache_clear()
    code_digest._path.cache_clear()


def digests() -> dict[str, str]:
    forget()
    return {script.name: code_digest.code_digest(script) for script in SCRIPTS}


def edit(package: Path, change: Callable[[ast.Module], None]) -> None:
    """Rewrite every module after `change`, without comments and in the format of ``ast.unparse``."""
    for file in package.rglob("*.py"):
        tree = ast.parse(file.read_text())
        change(tree)
        file.write_text(ast.unparse(ast.fix_missing_locations(tree)) + "\n")


@pytest.mark.slow
def test_comments_docstrings_and_format_change_no_digest(copied: Path) -> None:
    before = digests()

    def reword(tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                node.value.value = "Other words."

    edit(copied, reword)
    assert digests() == before


@pytest.mark.slow
def test_log_lines_and_the_words_of_errors_change_no_digest(copied: Path) -> None:
    before = digests()

    def reword(tree: ast.Module) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "InputError":
                node.args = [ast.Constant("other words")]
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger."):
                node.args = [ast.Constant("other words")]

    edit(copied, reword)
    assert digests() == before


def definitions(package: Path) -> dict[Path, list[ast.stmt]]:
    return {
        file: [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        for file in package.rglob("*.py")
    }


@pytest.mark.slow
def test_an_edited_function_or_class_changes_the_digests_of_exactly_those_who_reach_it(copied: Path) -> None:
    reached = {script.name: reachable(script) for script in SCRIPTS}
    before = digests()
    edited = 0
    for file, nodes in definitions(copied).items():
        original = file.read_text()
        module = ".".join(("nuvlm", *file.relative_to(copied).with_suffix("").parts))
        # One module's definitions at once where the same scripts reach them: an edit of each would take minutes.
        groups: dict[frozenset[str], list[ast.stmt]] = {}
        for node in nodes:
            users = frozenset(name for name, found in reached.items() if Definition(module, node.name) in found)
            groups.setdefault(users, []).append(node)
        for users, members in groups.items():
            lines = original.splitlines()
            for node in sorted(members, key=lambda node: -node.end_lineno):
                indent = " " * node.body[-1].col_offset
                lines.insert(node.end_lineno, f"{indent}edited = True")
            file.write_text("\n".join(lines) + "\n")
            forget()
            after = digests()
            changed = {name for name in before if after[name] != before[name]}
            assert changed == users, (module, [node.name for node in members])
            edited += 1
        file.write_text(original)
    assert edited > 100


def test_a_new_function_that_nobody_calls_changes_no_digest(copied: Path) -> None:
    before = digests()
    for file in copied.rglob("*.py"):
        file.write_text(file.read_text() + "\n\ndef new_function() -> int:\n    return 1\n")
    assert digests() == before


def test_statements_that_run_on_import_count_for_all_who_import_the_module(tmp_path: Path, copied: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from nuvlm.evaluation.cuts import choose_cuts\n")
    before = code_digest.code_digest(script)
    below = copied / "base" / "classes.py"  # imported by cuts
    below.write_text(below.read_text() + "\nprint('on import')\n")
    forget()
    assert code_digest.code_digest(script) != before


def test_a_function_called_for_a_name_counts_for_all_who_import_the_module(tmp_path: Path, copied: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from nuvlm.evaluation.cuts import choose_cuts\n")
    below = copied / "base" / "classes.py"  # imported by cuts
    below.write_text(below.read_text() + "\ndef prepare() -> int:\n    return 1\n\n\nPREPARED = prepare()\n")
    forget()
    assert Definition("nuvlm.base.classes", "prepare") in reachable(script)


def test_names_looked_up_at_run_time_are_given_as_entries(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import pkgutil\n")
    assert reachable(script) == set()
    found = reachable(script, "nuvlm.sources.png:convert_png")
    assert Definition("nuvlm.sources.png", "convert_png") in found
    assert not any(definition.module == "nuvlm.sources.cvn" for definition in found)


# What the scripts of all families look up by name.
FAMILY_REQUESTS = [
    (section, section.training(section.model_names(name)[0])) for name, section in Config().families.items()
]
ENTRIES = {
    "train.py": [training.run for _, training in FAMILY_REQUESTS],
    "classify.py": [section.classification().run for section, _ in FAMILY_REQUESTS],
    "explain.py": [request.run for section, _ in FAMILY_REQUESTS if (request := section.explanation())],
}


@pytest.mark.workflow
def test_all_that_a_job_calls_is_in_its_digest(tiny_run: Path) -> None:
    """The digest finds definitions by reading the code; here, the jobs of a run have recorded what they called."""
    called: dict[str, set[Definition]] = {}
    for file in (tiny_run / "calls").iterdir():
        calls = {Definition(*line.split(":")) for line in file.read_text().split()}
        called.setdefault(file.stem, set()).update(calls)
    assert len(called) > 10
    assert sum(map(len, called.values())) > 300
    missing = {}
    for script, definitions in called.items():
        tracked = {definition for definition in definitions if definition.module not in code_digest.WITHOUT_EFFECT}
        assert tracked, script
        found = reachable(REPOSITORY / "workflow" / "scripts" / script, *ENTRIES.get(script, ()))
        # Classes of settings check their defaults when they are imported: no result depends on that.
        missing[script] = {item for item in tracked - found if not item.module.endswith(".settings")}
    assert not any(missing.values()), missing
