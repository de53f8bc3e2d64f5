"""What is done now and then, for all records of a schema: warm, audit, rotate keys, remove what is over."""
