"""Benchmarks of nnU-Net trainers: grid of trainings, nnU-Net's folders, commands here or on Slurm, progress, report."""
