"""Pre-flights: what can be said of a program before it is compiled for a Neuron device, without its compiler."""
