"""The four dialects (program, plan, graph, tile): what their operations are and must hold."""
