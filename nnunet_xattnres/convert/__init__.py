"""Downloaded data sets, and one's own folders, as nnU-Net raw datasets.

A layout (`layouts/`) finds the cases in what was downloaded and says how they are split; a reader (`pictures`,
`volumes`, `arrays`) makes image and label map of one case; `dataset` writes them all, and `target` gets them where
nnU-Net looks, all or nothing.
"""
