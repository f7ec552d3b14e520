"""What each kind of step does; one file per kind, each handed the functions it needs."""
