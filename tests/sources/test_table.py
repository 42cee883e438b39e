"""Every row of the table of sources: reader and writer, schema, documentation, and the code of its conversion."""

import inspect
import re
from pkgutil import resolve_name

import pytest

from nuvlm.sources.table import SOURCES
from nuvlm.workflow.code_digest import reachable
from nuvlm.workflow.config import Config, InputSettings
from paths import REPOSITORY

READERS = [name for name, source in SOURCES.items() if source.reader is not None]
SCRIPT = REPOSITORY / "workflow" / "scripts" / "convert.py"


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_a_file_and_the_writer_of_its_kind(name):
    source = SOURCES[name]
    path, out = inspect.signature(resolve_name(source.reader)).parameters.values()
    assert (path.name, out.name) == ("path", "out")
    writer = resolve_name(source.writer)
    assert out.annotation is writer
    assert source.settings <= writer.model_fields.keys()
    assert "on_bad_event" in writer.model_fields


@pytest.mark.parametrize("name", SOURCES)
def test_settings_belong_to_the_input_section(name):
    assert SOURCES[name].settings <= InputSettings.model_fields.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_the_schema_lists_the_source(name):
    source = Config.model_json_schema()["$defs"]["InputSettings"]["properties"]["source"]
    assert name in source["enum"]
    assert SOURCES[name].files in source["description"]


@pytest.mark.parametrize("name", SOURCES)
def test_the_documentation_has_a_row(name):
    row = re.compile(rf"^\| `{name}` \|.*$", re.MULTILINE)
    (line,) = row.findall((REPOSITORY / "docs" / "formats.md").read_text())
    settings = set(re.findall(r"`(\w+)`", line)) - {name}
    assert SOURCES[name].settings <= settings


@pytest.mark.parametrize("name", READERS)
def test_a_conversion_depends_on_its_reader_and_not_on_the_table(name):
    source = SOURCES[name]
    modules = {definition.module for definition in reachable(SCRIPT, source.reader, source.writer)}
    assert source.reader.split(":")[0] in modules
    assert "nuvlm.sources.table" not in modules
    others = {SOURCES[other].reader.split(":")[0] for other in READERS if other != name}
    assert not modules & others
