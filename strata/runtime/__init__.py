"""What runs by itself, and what spares a server that is away: daemons and breakers."""
