"""calibrate: samples as given, what the nets compute on them, and what of it is kept for the zip."""
