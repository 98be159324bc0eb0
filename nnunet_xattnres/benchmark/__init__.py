"""Stock nnU-Net against other trainers: what is compared, where it lies, how it is run, and what may be said of it."""
