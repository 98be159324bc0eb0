"""Convert downloaded data sets, and folders of images and masks, to nnU-Net raw datasets.

1. A layout (`layouts/`) finds the cases in the files of the source and assigns them to train, val and test: a `Plan`.
2. A reader (`images`, `volumes`, `arrays`) reads image and mask of a case and checks them.
3. `dataset` converts all cases of a plan, and `destination` moves the result to its place in nnUNet_raw.

What is wrong with the source is collected as `Problem`s, each with one of the codes in `problems.ProblemCode`.
"""
