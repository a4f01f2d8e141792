"""The kernels of a model's step, predicted beside measured, and what is chosen by measuring.

works     what each launch of a step does: bytes, FLOPs
lines     the kernels of a step as a table; `around` those before and after the model's
search    schedules tried where the kernels run
choices   what was chosen on this machine, kept beside the kernels
"""
