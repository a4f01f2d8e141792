"""The machine as it is found: devices, their memory under a cap, streams, recorded launches."""
