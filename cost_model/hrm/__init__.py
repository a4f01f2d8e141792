"""The Hierarchical Roofline Model: levels, turning points, policies of offloaded MoE models."""
