"""Lets Triton's interpreter do once what it does at every operation: for processes that interpret
kernels and do nothing else with Triton."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np


@cache
def quicken() -> None:
    """Put the interpreter's functions in place of the language's for good, with quick ones before
    them, and remember types: small kernels take a fifth of the time."""
    import triton.language as tl
    from triton.runtime import interpreter
    from weft.tests import quick_operations

    # The interpreter computes each sum of integers once more in 64 bits, and asserts nothing of it.
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=False)
    _make_types_once(tl, interpreter)
    patch = interpreter._patch_lang
    languages: set[str] = set()
    seen: set[Any] = set()

    class Kept(interpreter._LangPatchScope):
        """What is patched stays so."""

        def restore(self) -> None:
            pass

    kept = Kept()

    def patched(fn: Any) -> Any:
        if fn in seen:
            return kept
        seen.add(fn)
        modules = {id(value) for value in fn.__globals__.values()}
        names = {name for name, each in (("tl", tl), ("core", tl.core)) if id(each) in modules}
        if not names <= languages:
            patch(fn)
            languages.update(names)
            quick_operations.install(setattr)
        return kept

    interpreter._patch_lang = patched


def _make_types_once(tl: Any, interpreter: Any) -> None:
    """Let NumPy's types, the types of blocks, and what a tensor says of its shape be made once."""
    find = interpreter._get_np_dtype
    dtypes: dict[str, np.dtype[Any]] = {}

    def dtype_of(of: Any) -> np.dtype[Any]:
        scalar = of.scalar
        if isinstance(scalar, tl.pointer_type):
            return find(scalar)
        if scalar.name not in dtypes:
            dtypes[scalar.name] = find(scalar)
        return dtypes[scalar.name]

    make_block = tl.block_type.__init__
    blocks: dict[Any, dict[str, Any]] = {}

    def block(self: Any, element: Any, shape: Any) -> None:
        key = element.name, tuple(s.value if type(s) is tl.constexpr else s for s in shape)
        if key not in blocks:
            make_block(self, element, shape)
            blocks[key] = dict(self.__dict__)
        self.__dict__.update(blocks[key])

    make_tensor = tl.tensor.__init__

    def tensor(self: Any, handle: Any, type: Any) -> None:
        known = type.__dict__.get("_of_tensors")
        if known is None:
            make_tensor(self, handle, type)
            type._of_tensors = {name: value for name, value in self.__dict__.items()
                                if name != "handle"}  # fmt: skip
        else:
            self.__dict__.update(known)
            self.handle = handle

    def handle(self: Any, data: Any, dtype: Any) -> None:
        self.data, self.dtype, self.attr = data, dtype, {}

    equal = tl.dtype.__eq__
    interpreter._get_np_dtype = dtype_of
    tl.block_type.__init__, tl.tensor.__init__ = block, tensor
    tl.dtype.__eq__ = lambda self, other: self is other or equal(self, other)
    interpreter.TensorHandle.__init__ = handle
