"""Theory that the chapters compute with: the equations written out, solvers, simulations."""
