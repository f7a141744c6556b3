"""The compile cache: an export of what was exported before copies the programs, whatever the model is called."""
