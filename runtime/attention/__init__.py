"""A step's attention lists: how they are planned, cut up, and handed to the launches."""
