"""Pure numerical functions: moments, damped least squares, assignment. Imports nothing of ours."""
