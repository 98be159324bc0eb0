"""The operator: Eqs. 4-8 of the paper, once word by word and once as it is trained.

Every implementation is a function `xattnres` with the same signature and the same docstring, in a file of its own;
`reference.py` is the specification.
"""
