"""A site of Django's with one table and two endpoints, four times over: `SITE` says which way it reads."""
