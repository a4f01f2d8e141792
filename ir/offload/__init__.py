"""Models larger than a GPU, as data: pipelines and their schedules, routing, pages of experts."""
