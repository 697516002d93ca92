"""export: the fused net as a file that describes itself, its tasks one by one, its report, and its verification."""
