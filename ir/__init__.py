"""Data only: the four dialects, their one text form, types, spans and diagnostics."""
