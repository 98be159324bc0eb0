"""Plans files whose networks are those of this package, for use with any of nnU-Net's trainers."""
