"""`xattnres export`: trained networks for use without nnU-Net, and folders of trained models to share."""
