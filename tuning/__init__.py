"""The kernels of a model's step, predicted beside measured; schedules, and the machine, measured.

works     what each launch of a step does: bytes, FLOPs
lines     the kernels of a step as a table; `around` those before and after the model's
search    schedules tried where the kernels run
machine   what `weft calibrate` measures of every level here
"""
