"""The same engine as an HTTP server: a front, an engine and clients, each a process of its own."""
