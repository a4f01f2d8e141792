"""The command line: one file for running, one for looking, one for the machine."""
