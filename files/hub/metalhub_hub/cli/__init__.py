"""The command ``metalhub``. A noun is a file here, and a line in ``commands.NOUNS``."""
