"""Builds the package `weft`, whose root is this repository's root."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOMS = [
    "ir", "ir.constraints", "ir.dialects", "ir.display", "ir.offload", "ir.sparse",
    "frontend", "frontend.checkpoints", "frontend.lowering",
    "frontend.models", "frontend.python", "frontend.semantics", "frontend.text",
    "cost_model", "cost_model.hrm",
    "passes", "passes.program", "passes.program.endpoints", "passes.program.memory",
    "passes.program.plans", "passes.program.prefixes", "passes.graph", "passes.tile",
    "passes.tile.attention", "passes.tile.lowering", "passes.tile.products", "passes.tile.rows",
    "passes.tile.selection", "passes.tile.sparse", "passes.validation", "codegen",
    "codegen.bounds", "codegen.meaning", "codegen.measure", "codegen.triton",
    "codegen.triton.gluon", "codegen.tvm",
    "runtime", "runtime.attention", "runtime.constraints", "runtime.devices",
    "runtime.execution", "runtime.gpu", "runtime.memory", "runtime.offload", "runtime.programs",
    "runtime.remote", "runtime.schedule", "runtime.tracing", "plots", "explore", "cli",
    "compiler", "evaluation", "tuning",
]  # fmt: skip


class BuildRooms(build_py):
    """build_py that leaves setup.py out of the package it would otherwise be a module of."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """List the modules of `package` (name, module, file), without this file."""
        modules = super().find_package_modules(package, package_dir)
        return [
            entry for entry in modules if Path(entry[2]).name not in {"setup.py", "conftest.py"}
        ]


if __name__ == "__main__":
    setup(
        packages=["weft", *(f"weft.{room}" for room in ROOMS)],
        package_dir={"weft": "."},
        package_data={
            "weft": ["zoo/*/*.json", "zoo/*/*.safetensors", "zoo/*/*.jinja", "examples/*.weft"],
            "weft.ir": ["*.lark"],
            "weft.ir.display": ["*.css"],
            "weft.explore": ["page/*.html", "page/*.css", "page/*.js"],
            "weft.frontend.text": ["*.lark"],
            "weft.cost_model": ["hardware/*.json"],
        },
        cmdclass={"build_py": BuildRooms},
    )
