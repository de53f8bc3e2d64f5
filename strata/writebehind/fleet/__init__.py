"""How the fleet is reached: the broker, its settings, and the bell that wakes a worker."""
