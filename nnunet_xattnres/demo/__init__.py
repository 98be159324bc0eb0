"""`xattnres demo`: stock nnU-Net and XAttnRes side by side on real images, offline."""
