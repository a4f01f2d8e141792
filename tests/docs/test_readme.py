"""README.md: its picture is of its program, its tables are what the code says."""

import re

from weft.cli.inspect import read_rows
from weft.compiler import Compilation
from weft.compiler.stages import STAGES, stage_text
from weft.frontend.models.registry import BUILDERS
from weft.plots.prefixes import blocks as drawn
from weft.tests.docs.documents import ROOT, blocks

TEXT = (ROOT / "README.md").read_text()
PICTURE = ROOT / "docs" / "pictures" / "prefixes.svg"


def test_the_picture_is_of_the_program_above_it():
    (program,) = [block for block in blocks(ROOT / "README.md") if block.language == "weft"]
    rows = list(read_rows(ROOT / "examples" / "data" / "essay_judge.jsonl"))
    compilation = Compilation(program.text)
    tree = compilation.prefixes.tree(rows)
    kept, now = PICTURE.read_text(), stage_text(compilation, "prefixes", None, "svg", False, rows)
    labels = [re.findall(r"<text[^>]*>([^<]*)<", text) for text in (kept, now)]
    assert labels[0] == labels[1], "run the command below the picture"
    patches = [len(re.findall(r'<g id="patch_', text)) for text in (kept, now)]
    assert patches[0] == patches[1] > sum(block.width > 0 for block in drawn(tree))


def test_its_program_has_twelve_lines():
    (program,) = [block for block in blocks(ROOT / "README.md") if block.language == "weft"]
    assert len([line for line in program.text.splitlines() if line.strip()]) == 12


def test_every_stage_is_in_its_table():
    table = TEXT.split("## Stages")[1].split("| besides")[0]
    assert [stage for stage in STAGES if f"--stage {stage}" not in table] == []


def test_it_names_the_architectures():
    limits = TEXT.split("## Limits")[1]
    said = {name.removesuffix("ForCausalLM").removesuffix("Moe") for name in BUILDERS}
    assert [name for name in said if name not in limits] == []


def test_its_first_two_sentences_say_what_it_is():
    first = TEXT.split("\n\n")[1].replace("\n", " ")
    assert len(re.findall(r"[.!?](?:\s|$)", first)) == 2
