"""Sound without TensorFlow: a network as a program of a few operations, and numba kernels that run it sample by sample.

`network` has the program and the arrays, `weights` the arrays' source and their forms, `kernels` the operations,
`voices` what is generated side by side, `blend` what lies between two networks. A family describes its networks to
`network.Builder` in its `engine.py`.
"""
