"""`xattnres demo`: stock nnU-Net and XAttnRes, trained and compared on real images without a download."""
