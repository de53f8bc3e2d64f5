"""L3: PostgreSQL. Rows in, rows out; records, ciphers and caches are the business of the floors above."""
