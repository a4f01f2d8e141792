"""Lets Triton's interpreter do once what it does at every call of a function: for processes that
interpret kernels and do nothing else with Triton."""

from __future__ import annotations

from typing import Any

import numpy as np


def quicken() -> None:
    """Put the interpreter's functions in place of the language's for good, and remember which
    NumPy dtype stands for which of Triton's: a quarter to a third of the time of small kernels."""
    import triton.language as tl
    from triton.runtime import interpreter

    patch, find = interpreter._patch_lang, interpreter._get_np_dtype
    seen: set[str] = set()
    dtypes: dict[str, np.dtype[Any]] = {}

    class Kept(interpreter._LangPatchScope):
        """What is patched stays so."""

        def restore(self) -> None:
            pass

    def patched(fn: Any) -> Any:
        modules = {id(value) for value in fn.__globals__.values()}
        languages = {name for name, each in (("tl", tl), ("core", tl.core)) if id(each) in modules}
        if not languages <= seen:
            patch(fn)
            seen.update(languages)
        return Kept()

    def dtype_of(of: Any) -> np.dtype[Any]:
        scalar = of.scalar
        if isinstance(scalar, tl.pointer_type):
            return find(scalar)
        if scalar.name not in dtypes:
            dtypes[scalar.name] = find(scalar)
        return dtypes[scalar.name]

    interpreter._patch_lang, interpreter._get_np_dtype = patched, dtype_of
