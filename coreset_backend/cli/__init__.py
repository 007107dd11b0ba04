"""Everything typed in a terminal. Imports whatever a command needs, when it runs."""
