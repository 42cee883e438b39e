from pathlib import Path
from pkgutil import resolve_name

from nuvlm.base.logs import setup_logging

setup_logging(snakemake.log[0])
convert, writer = resolve_name(snakemake.params.reader), resolve_name(snakemake.params.writer)
# The rule declares a store file by file: the writer takes its folder.
outputs = {name: Path(files if isinstance(files, str) else files[0]) for name, files in snakemake.output.items()}
if "store" in outputs:
    outputs["store"] = outputs["store"].parent
convert(Path(snakemake.input.file), writer(**outputs, **snakemake.params.settings))
