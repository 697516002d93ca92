"""fuse: weights of shared and own strands, step by step, and trunk and heads assembled into one net."""
