"""Maps of the attention of a trained network over whole images: which stage every pixel reads, in every layer."""
