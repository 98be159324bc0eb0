"""Helpers that do not depend on the method: files, worker processes, tables, figures, nnU-Net's commands."""
