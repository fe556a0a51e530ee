"""The parts of the platform that the MIG agent needs, as the modules have them."""
