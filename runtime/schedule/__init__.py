"""What the next step computes and for whom: requests, batches, admission, order, endings."""
