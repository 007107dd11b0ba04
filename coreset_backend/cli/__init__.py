"""Everything typed in a terminal. `main` lists the commands; each module imports what its command needs."""
