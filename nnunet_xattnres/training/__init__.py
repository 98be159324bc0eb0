"""Trainers, as nnU-Net finds them through `trainers/`, and their lengths."""
