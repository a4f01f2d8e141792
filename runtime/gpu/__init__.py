"""The executor of a GPU: recorded steps, draws that stay on the device, copies of pages."""
