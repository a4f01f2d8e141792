"""Whose figures prices are of: this machine's, those of the GPU that is here, or a named one's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..cost_model.hardware_file import hardware_path, load, measured_or_shipped
from .render import remarks

if TYPE_CHECKING:
    from ..cost_model.hardware import Hardware

NO_GPU = "priced for an H200, as no GPU is here or was measured: --hardware FILE prices another"


def hardware_here() -> Hardware:
    """Return this machine as `weft calibrate` measured it, or round figures where it has not."""
    measured = hardware_path()
    if measured.exists():
        return load(measured)
    remarks().print("no measured hardware file: run `weft calibrate` for real prices")
    return load("cpu-generic")


def gpu_hardware() -> Hardware:
    """Return the ceilings of this GPU, the first of its levels: the shipped ones of an H200, and of
    another card what `weft calibrate` measured of it; else an H200's, with a remark."""
    from ..runtime.devices.device import Device

    name = Device.find().name
    if "H200" in name.split():
        return load("h200")
    found = measured_or_shipped()
    if str(found.provenance.get("device", "")).endswith(f" with {name}"):
        return _first(found, "gpu")
    remarks().print(f"roofs are those of an H200, this is a {name}: `weft calibrate` measures it")
    return load("h200")


def hardware_of(name: str, on_gpu: bool) -> Hardware:
    """Return what a step is priced by, its level first: the named hardware, else that of the GPU or
    the CPU here; without a GPU one that was measured, else an H200, with a remark.

    Raises NoHardwareFile, and NoSuchFigure where the named one has no such level.
    """
    from ..codegen.measure.gpu import has_gpu

    if name:
        return _first(load(name), "gpu" if on_gpu else "cpu")
    if not on_gpu:
        return hardware_here()
    if has_gpu():
        return gpu_hardware()
    found = measured_or_shipped()
    if found == load("h200"):
        remarks().print(NO_GPU)
    return _first(found, "gpu")


def _first(hardware: Hardware, kind: str) -> Hardware:
    """Return a hardware with the first of its levels of a kind before all others."""
    wanted = hardware.of_kind(kind)
    others = (level for level in hardware.levels if level is not wanted)
    return replace(hardware, levels=(wanted, *others))
