"""The built-in methods, a module a family; `thetastore.merging.registry` lists them.

Elementwise work is done in the dtype of the arrays, in the order that is written down in docs/merge.md. What is one
number for many elements (norms, cosines, sums) is computed in float64, whatever the arrays are: it then does not
depend on how a library groups its sums.
"""
