"""Pictures of prices, plans and runs, for notebooks: `pip install 'weft[plots]'`."""
