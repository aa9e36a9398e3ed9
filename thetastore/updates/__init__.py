"""Updates: a tensor as what it was made of, a base and the parts that change it.

A low-rank update adds the product of two thin matrices, IA3 multiplies rows or columns, DoRA does both. `recipe` says
what an update consists of, `arithmetic` applies one: element by element, in one order, by IEEE operations that every
machine rounds alike, never by BLAS. So the bytes that come out are the same everywhere, and a store may keep the parts
in place of the tensor (`thetastore.codecs.update`). `search` finds the parts in a tensor that was changed elsewhere.
"""
