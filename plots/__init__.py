"""Pictures of prices, plans and runs, for notebooks: the extra `plots` has what they need."""
