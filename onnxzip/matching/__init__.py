"""match: pair costs, assignment, and the methods that differ in them."""
