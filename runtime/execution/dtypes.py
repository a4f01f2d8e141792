"""The dtypes of the IR as torch has them."""

import torch

from ...ir.types import DTYPE_NAMES

TORCH = {name: getattr(torch, called) for name, called in DTYPE_NAMES.items()}
"""torch's dtype of each of the IR's."""
