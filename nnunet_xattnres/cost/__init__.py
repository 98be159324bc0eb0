"""Time and memory of a training step and a prediction: stock nnU-Net, the reference equations and XAttnRes."""
