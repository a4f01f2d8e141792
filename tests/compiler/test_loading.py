"""What stays in memory of models that nobody holds any more."""

import gc
import weakref

from typer.testing import CliRunner
from weft.cli.app import app
from weft.compiler import Compilation, loading

HELLO = 'program hello() -> str:\n    "Say:"\n    gen said(max_tokens=2)\n    return said\n'


def test_a_model_that_nobody_holds_goes_before_the_next_is_loaded():
    gc.collect()
    gc.disable()
    try:
        compilation = Compilation(HELLO, "tiny-dense")
        executable = compilation.executable()
        executable.run()
        first = weakref.ref(compilation.executor)
        del compilation, executable
        assert first() is not None, "circles hold it: this test needs them"
        held = Compilation(HELLO, "tiny-dense").executor
        assert first() is None and held in loading._in_memory
    finally:
        gc.enable()


def test_commands_of_one_process_do_not_pile_models_up(freezing, tmp_path):
    file = tmp_path / "hello.weft"
    file.write_text(HELLO)
    gc.collect()
    others = len(loading._in_memory)
    for _ in range(3):
        assert CliRunner().invoke(app, ["run", str(file), "-q"]).exit_code == 0
    assert len(loading._in_memory) <= others + 1
