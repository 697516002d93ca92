"""distribute: one job in several processes, under torchrun (`ranks`) or over a shared folder (`exchange`)."""
