"""What XAttnRes costs: one training step and one prediction, stock, literal and fast, in one run."""
