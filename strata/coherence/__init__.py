"""What keeps instances at one: versions, messages, the bus, and guards against late fills."""
