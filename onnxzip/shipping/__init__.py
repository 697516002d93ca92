"""ship: a fused file for runtimes of phones and other small devices, each target converted, run and compared.

records     what a target is, and what it is handed
requests    what is asked for, checked before long work
targets     one module each
worker      runs a target's functions in whatever Python has its packages
backends    which Python that is; calls of the worker
preparing   the fused file as the net that a target is handed (programs: for PyTorch's own converters)
quantizing  that net in int8
comparing   the target's own runtime against the fused net
shipment    the whole way, from a fused file to files that have been run
doctor      what can be used here
"""
