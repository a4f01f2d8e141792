"""Programs on weft beside the same engine driven request by request: cases, sides, counts."""
