"""Helpers that know nothing of the method: files, worker processes, tables, plots, nnU-Net's commands."""
