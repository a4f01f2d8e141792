"""One program instance: its plan interpreted, its values, tools and tasks."""
