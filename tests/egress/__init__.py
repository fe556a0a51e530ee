"""A fake internet, attacks on the egress control, and what has to work beside them."""
